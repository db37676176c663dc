"""The report of a study: one self-contained HTML page.

Its figures are ``study.plot``'s; ``tables`` and ``text`` write, ``sections`` gather what each part
of the page says, ``page`` puts together, ``explorer`` is the part that computes in the page.
"""

from __future__ import annotations

from regmix.report.page import render, show, write

__all__ = ["render", "show", "write"]
