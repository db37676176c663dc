"""Figures of a study: ``study.plot.weights()`` and its like, which the report is made of too.

Each figure has its data (``.frame()``), shows itself in a notebook and is saved as SVG or PNG.
``evidence`` reads a study once; ``frames``, ``trust`` and ``effects`` compute; ``draw`` draws, and
``paper`` says on what; ``plots`` puts them together. Matplotlib is loaded when a figure is drawn.
"""

from __future__ import annotations

from regmix.plot.evidence import Evidence
from regmix.plot.figure import Figure
from regmix.plot.plots import Plots, of_front

__all__ = ["Evidence", "Figure", "Plots", "of_front"]
