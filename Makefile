# What a developer does. `make demo` and `make test` also do all set-up on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
DATA ?= ../shared/data
RESULTS ?= runs/results

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs quick tests coverage soak lower-bounds bench results

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, " + sys.executable + " is " + v + "; choose one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing (torch is large: this takes a few minutes) ..."
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## set up, then pre-train a U-Net on the embedded phantom (about 3 minutes on 2 cores)
	$(BIN)/ssmtl run --backbone unet --task reconstruct_prev --task reconstruct_next --task slice_siam

test: lint types docs tests  ## set up, then all that CI runs

lint: $(VENV)/.installed  ## ruff: style, imports, banned modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.installed  ## the pages of docs/ as a site, docs/_build/html/index.html; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

quick: $(VENV)/.installed  ## pytest without the slow tests (a minute or two on 2 cores), to run again and again
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

tests: $(VENV)/.installed  ## pytest, all but `soak`
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 30

coverage: $(VENV)/.installed  ## the same with branch coverage, which takes nearly twice as long
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report term

soak: $(VENV)/.installed  ## long tests
	$(BIN)/python -m pytest -m soak

lower-bounds:  ## the quick tests with the oldest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -m 'not slow'

bench: $(VENV)/.installed  ## what is claimed about speed, as a table (half an hour or more)
	$(BIN)/python benchmarks/all.py

results: $(VENV)/.installed  ## fill the tables of docs/results.md (about three hours; resumes); DATA=folder with the two data sets
	$(BIN)/python benchmarks/results.py $(DATA) $(RESULTS)
