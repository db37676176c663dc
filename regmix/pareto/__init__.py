"""Pareto: the front of mixtures between two groups of metrics, with uncertainty.

Each side's value is the mean over its metrics, every one turned so that lower is better and divided
by its standard deviation over the swarm: metrics of different units can then be added. 0 is the
swarm's mean, -1 one standard deviation better.

``sides`` says which metrics are meant, ``trace`` finds the mixtures, ``result`` keeps them.
"""

from __future__ import annotations

from regmix.pareto.result import FOLDER, WEIGHT, Pareto, latest, slug
from regmix.pareto.sides import Side, select, sides
from regmix.pareto.trace import Ground, distances, trace

__all__ = [
    "FOLDER",
    "WEIGHT",
    "Ground",
    "Pareto",
    "Side",
    "distances",
    "latest",
    "select",
    "sides",
    "slug",
    "trace",
]
