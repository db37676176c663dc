"""Sphinx's settings for these pages; `make docs` builds them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import generated

import regmix

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "regmix"
release = regmix.__version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True
myst_heading_anchors = 4  # as README and pages link to them: LAUNCHING.md#claims
html_theme = "furo"
html_title = f"regmix {release}"
html_show_copyright = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}  # they lead to a host of the source

_MARK = re.compile(r"<!-- generated: (\w+) -->")


def _fill(_: Sphinx, __: str, source: list[str]) -> None:
    """Put what the code says of itself where a page asks for it."""
    source[0] = _MARK.sub(lambda mark: generated.PARTS[mark[1]](), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts that are generated."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
