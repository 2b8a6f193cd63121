"""How Sphinx makes the pages: `make docs`."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "https://github.com/ssmtl-toolkit/ssmtl_toolkit/blob/main/"

project = "ssmtl_toolkit"
author = "The ssmtl_toolkit authors"
project_copyright = author
version = release = version_of("ssmtl-toolkit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
nitpicky = False  # annotations name private types of libraries

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
highlight_language = "none"
smartquotes = False  # `--data` is an option

html_theme = "furo"
html_title = f"ssmtl_toolkit {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"
napoleon_use_ivar = True
napoleon_custom_sections = [("Options", "params_style")]  # those of the configuration

# Pages that hold a file of the repository's root, which reads well there too.
WHOLE = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md", "security": "SECURITY.md"}
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def leads(target, anchor, folder):
    """Where a link of a file in `folder` leads on the site: to a page, or to the file on GitHub."""
    path = (folder / target).resolve()
    pages = {ROOT / file: ROOT / "docs" / f"{page}.md" for page, file in WHOLE.items()}
    path = pages.get(path, path)
    if path.is_relative_to(ROOT / "docs") and path.is_file():
        return f"](/{path.relative_to(ROOT / 'docs')}{anchor})"
    return f"]({SOURCE}{path.relative_to(ROOT)}{anchor})"


def read(app, page, source):
    """Put the file of the repository's root into its page, and turn links so that they lead somewhere on the site."""
    file = ROOT / WHOLE[page] if page in WHOLE else ROOT / "docs" / f"{page}.md"
    text = file.read_text() if page in WHOLE else source[0]
    source[0] = _LINK.sub(lambda match: leads(match[1], match[2] or "", file.parent), text)


def programs(app, what, name, thing, options, lines):
    """Show the programs in docstrings, which are indented or stand under `Example:`, as code."""
    for number in range(len(lines) - 1, -1, -1):
        indented = lines[number].startswith("    ")
        if lines[number] == "Example:":
            lines[number : number + 1] = [".. code-block:: python", ""]
        elif indented and number > 1 and not lines[number - 1] and lines[number - 2][:1].strip():
            lines[number:number] = [".. code-block:: python", ""]


def plain(app, context, lines):
    """Help texts are plain: a star is a star; lines that begin with `ssmtl` are commands."""
    lines[:] = [re.sub(r"(?<!\*)\*(?!\*)", r"\*", line) for line in lines]
    lines[:] = [re.sub(r"^\| +(ssmtl .*\S)", r"| ``\1``", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", programs, priority=100)  # before napoleon, which has Google's sections
    app.connect("source-read", read)
    for part in ("description", "options", "arguments"):
        app.connect(f"sphinx-click-process-{part}", plain)
