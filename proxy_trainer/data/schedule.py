"""Which domain every block of a run comes from, read at any position without the ones before it.

The rule decides block by block, and to the last bit of a float where deadlines tie, so that no
formula gives the state after so many blocks. But states forget: the same rule, begun a few dozen
blocks earlier from a good guess, soon decides as if it had run from the first block. A piece of
the schedule is therefore dealt in many *lanes* at once, each from a guess. Where one lane ends in
the state that the next began with, both are what the rule gives block by block; the others are
dealt again from where their neighbour ended.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from proxy_trainer.data.shards import IntArray
from regmix.mixture import FloatArray

PIECE = 2**18
"""Blocks that are dealt at a time, and held. Of the pieces before only the counts are kept."""
_LANES = 512
"""At most: what one step of so many works with fits into a core's cache."""
_SHORTEST = 256
"""Blocks of a lane, so that what it deals before them is a small part, and lies in the piece."""
_WARM_UP = 64
"""Blocks that a lane deals before its own, from a guess; after so many nearly all are right."""


class Schedule:
    """The domain of every block, as even as whole blocks can be, and its number in the domain.

    Tijdeman's rule (*The chairman assignment problem*, Discrete Mathematics 32, 1980): among the
    domains whose deficit has reached 1/(2k−2), take the one whose deadline comes first. For
    every prefix each domain's count then differs from its share by at most 1 − 1/(2k−2) < 1.
    The seed rotates the whole sequence, which leaves the counts over the run as they are.
    """

    def __init__(self, weights: FloatArray, blocks: int, seed: int = 0) -> None:
        self.blocks = blocks
        self._domains = len(weights)
        self._active = np.flatnonzero(weights > 0)
        self._weights = weights[self._active]
        shift = int(np.random.default_rng([seed, 1]).integers(blocks)) if blocks else 0
        self._first = blocks - shift
        """Where in the sequence as the rule deals it the run begins."""
        self._before = [np.zeros(len(self._active), dtype=np.int64)]
        """Blocks of every domain before each piece, as far as pieces were dealt."""
        # A batch may lie in two.
        self._piece = lru_cache(maxsize=2)(self._dealt)

    def read(self, first: int, count: int) -> IntArray:
        """Domain of each of these blocks, and how many before it are of its domain, ``(n, 2)``.

        Raises:
            IndexError: there is none of these blocks, or not all of them.
        """
        if first < 0 or first + count > self.blocks:
            raise IndexError(f"blocks {first} to {first + count} of a run of {self.blocks}")
        at = (np.arange(first, first + count) + self._first) % max(1, self.blocks)
        out = np.empty((count, 2), dtype=np.int64)
        for index in np.unique(at // PIECE):
            here = at // PIECE == index
            order, rank = self._piece(int(index))
            inside = at[here] - index * PIECE
            out[here, 0] = order[inside]
            out[here, 1] = self._before[index][order[inside]] + rank[inside]
        end = at < self._first
        out[~end, 1] -= self._skipped[out[~end, 0]]
        if end.any():
            out[end, 1] += (self._total - self._skipped)[out[end, 0]]
        out[:, 0] = self._active[out[:, 0]]
        return out

    def counts(self) -> IntArray:
        """Blocks of every domain in the whole run."""
        out = np.zeros(self._domains, dtype=np.int64)
        out[self._active] = self._total
        return out

    @cached_property
    def _skipped(self) -> IntArray:
        return self._until(self._first)

    @cached_property
    def _total(self) -> IntArray:
        return self._until(self.blocks)

    def _until(self, position: int) -> IntArray:
        """Blocks of every domain before a position of the sequence as the rule deals it."""
        index, inside = divmod(position, PIECE)
        if inside == 0 and index < len(self._before):
            return self._before[index]
        if inside == 0:  # the end of a piece
            index, inside = index - 1, PIECE
        order, _ = self._piece(index)
        return self._before[index] + _counted(order[:inside], len(self._active))

    def _dealt(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Domains of a piece, counted among the active, and ranks in the piece."""
        while True:
            at = min(index, len(self._before) - 1)
            before = self._before[at]
            order = deal(self._weights, before, at * PIECE, min(PIECE, self.blocks - at * PIECE))
            if at + 1 == len(self._before):
                self._before.append(before + _counted(order, len(self._active)))
            if at == index:
                return order, _ranks(order, len(self._active))


def schedule(weights: FloatArray, blocks: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """The domain of every block, shape ``(blocks,)``; see :class:`Schedule`."""
    return Schedule(weights, blocks, seed).read(0, blocks)[:, 0].astype(np.int32)


def deal(weights: FloatArray, before: IntArray, first: int, blocks: int) -> npt.NDArray[np.int32]:
    """What the rule gives for ``blocks`` blocks from ``first`` on, one after the other.

    Args:
        weights: all above 0.
        before: blocks of every domain among the first ones.
    """
    if len(weights) == 1:
        return np.zeros(blocks, dtype=np.int32)
    length = max(_SHORTEST, -(-blocks // _LANES))
    starts = first + np.arange(0, blocks, length)
    begun = np.empty((len(starts), len(weights)))
    begun[0] = before
    warm = starts[1:] - _WARM_UP
    begun[1:], _ = _step(weights, _guess(weights, warm), warm, _WARM_UP)
    ended = np.empty_like(begun)
    order = np.empty((len(starts), length), dtype=np.int32)
    wrong = np.arange(len(starts))
    while len(wrong):
        ended[wrong], order[wrong] = _step(weights, begun[wrong], starts[wrong], length)
        wrong = 1 + np.flatnonzero((begun[1:] != ended[:-1]).any(axis=1))
        begun[wrong] = ended[wrong - 1]
    return order.ravel()[:blocks]


def _step(
    weights: FloatArray, counts: FloatArray, firsts: IntArray, steps: int
) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """Counts after so many steps of every lane, and the domains dealt, ``(lanes, steps)``.

    Floats are computed as one lane alone would have them, in the same order: which of two deadlines
    that are equal but for rounding comes first is a part of the schedule.

    Args:
        counts: blocks of every domain so far, ``(lanes, domains)``.
        firsts: blocks so far.
    """
    k = len(weights)
    slack = 1 / (2 * k - 2)
    counts, w = counts.copy(), np.broadcast_to(weights, counts.shape).copy()
    deficit, early = np.empty_like(counts), np.empty(counts.shape, dtype=bool)
    lanes, order = np.arange(len(counts)), np.empty((steps, len(counts)), dtype=np.int32)
    t = firsts[:, None].astype(np.float64)
    for own in order:
        t += 1
        np.multiply(w, t, out=deficit)
        deficit -= counts
        np.less(deficit, slack - 1e-9, out=early)
        deadline = np.subtract(1 - slack, deficit, out=deficit)
        with np.errstate(over="ignore"):  # a weight near 0 has its deadline at infinity
            deadline /= w
        np.copyto(deadline, np.inf, where=early)
        own[:] = chosen = deadline.argmin(axis=1)
        counts[lanes, chosen] += 1
    return counts, order.T


def _guess(weights: FloatArray, positions: IntArray) -> FloatArray:
    """Counts that the rule may have come to: all that is due, then what is due first."""
    slack = 1 / (2 * len(weights) - 2)
    share = weights * positions[:, None]
    counts = np.maximum(0, np.floor(share + slack))
    with np.errstate(over="ignore"):
        deadline = np.where(share - counts >= slack, (counts + 1 - slack) / weights, np.inf)
    place = deadline.argsort(axis=1, kind="stable").argsort(axis=1)
    return np.asarray(counts + (place < positions[:, None] - counts.sum(axis=1, keepdims=True)))


def _counted(order: npt.NDArray[np.int32], domains: int) -> IntArray:
    return np.bincount(order, minlength=domains).astype(np.int64)


def _ranks(order: npt.NDArray[np.int32], domains: int) -> npt.NDArray[np.int32]:
    """For every block, how many earlier ones are of its domain."""
    # The smallest type that holds them: numpy sorts it by its digits.
    sorted_by_domain = np.argsort(order.astype(np.min_scalar_type(domains)), kind="stable")
    counts = _counted(order, domains)
    found = np.empty(len(order), dtype=np.int32)
    found[sorted_by_domain] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return found
