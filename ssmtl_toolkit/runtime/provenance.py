"""How a result came to be: versions, machine, seeds, data, and what to cite; for summary.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ssmtl_toolkit.runtime.environment import machine, versions
from ssmtl_toolkit.specs import Spec

PAPER = """@inproceedings{dong2021selfsupervised,
  title     = {Self-supervised Multi-task Representation Learning for Sequential Medical Images},
  author    = {Dong, Nanqing and Kampffmeyer, Michael and Voiculescu, Irina},
  booktitle = {Machine Learning and Knowledge Discovery in Databases. Research Track (ECML PKDD 2021)},
  series    = {Lecture Notes in Computer Science},
  volume    = {12977},
  pages     = {779--794},
  year      = {2021},
  publisher = {Springer},
  doi       = {10.1007/978-3-030-86523-8_47}
}"""
"""The paper whose method this is."""


def provenance(specs: Iterable[Spec], seeds: Sequence[int], data: str, device: str) -> dict[str, Any]:
    """Describe this process and what it used; of equal processes the same, also when a run is resumed.

    Commands are in environment.json, one for each start.

    Args:
        specs: the parts whose sources are to be cited.
        seeds: of the trainings.
        data: the fingerprint of the slices; "": each run records its own.
        device: what torch computed on, such as `cuda:0`; "": the same.
    """
    return {
        "versions": versions(),
        "machine": machine(device),
        "seeds": list(seeds),
        "data": data,
        "citations": sources(specs),
    }


def sources(specs: Iterable[Spec | type[Spec]]) -> list[str]:
    """BibTeX of the paper and of what these parts name, each once."""
    return list(dict.fromkeys([PAPER, *(text for spec in specs for text in spec.citations)]))
