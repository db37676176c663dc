"""Mixtures such as a person makes by moving sliders: what stand-ins are fitted to and judged on."""

from __future__ import annotations

import numpy as np

from regmix.mixture import FloatArray
from regmix.space import Space

_WIDTHS = (0.3, 30.0)


def cloud(
    space: Space, anchors: FloatArray, runs: FloatArray, count: int, rng: np.random.Generator
) -> FloatArray:
    """Allowed mixtures of every kind, shape ``(count, n_domains)``.

    A third is spread over the space around uniform and around the runs' mean; a third has one
    domain of an anchor or a run moved and the others scaled; a third lies between two of these.

    Args:
        anchors: mixtures that a person starts from, such as the proposal, ``(n, n_domains)``.
        runs: what was measured, ``(n, n_domains)``.
    """
    third = count // 3
    k = len(space.domains)
    spread = [
        space.sample(n, rng, centre=centre, concentration=_WIDTHS).weights
        for n, centre in (
            (third // 2, np.full(k, 1 / k)),
            (third - third // 2, runs.mean(0)),
        )
    ]
    known = np.vstack([np.repeat(anchors, max(1, len(runs) // len(anchors)), axis=0), runs])
    moved = _one_moved(known[rng.integers(len(known), size=third)], rng)
    rest = count - 2 * third
    ends = known[rng.integers(len(known), size=(2, rest))]
    share = rng.uniform(size=(rest, 1))
    return space.pull(np.vstack([*spread, moved, share * ends[0] + (1 - share) * ends[1]]))


def _one_moved(weights: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One domain a row gets a share of its own, the others keep their ratios."""
    rows = np.arange(len(weights))
    domain = rng.integers(weights.shape[1], size=len(weights))
    share = rng.uniform(size=len(weights)) ** 2
    rest = 1 - weights[rows, domain]
    even = np.full_like(weights, 1 / max(weights.shape[1] - 1, 1))
    scaled = np.where(rest[:, None] > 1e-9, weights / np.maximum(rest, 1e-9)[:, None], even)
    scaled = scaled * (1 - share)[:, None]
    scaled[rows, domain] = share
    return np.asarray(scaled / scaled.sum(1, keepdims=True))
