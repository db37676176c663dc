"""The report of a study: plot data, figures and one self-contained HTML page.

``frames`` computes, ``figures`` draws, ``tables`` and ``text`` write, ``page`` puts together. Loads
matplotlib, so it is imported only by the command that writes a report.
"""

from __future__ import annotations

from regmix.report.front import png as front_png
from regmix.report.page import render, write

__all__ = ["front_png", "render", "write"]
