"""Where a step's blocks come from: mixtures of a study's domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from proxy_trainer.data.batch import Batch
from proxy_trainer.data.pool import TokenPool
from proxy_trainer.data.sampler import MixtureSampler, Realised
from proxy_trainer.data.shards import IntArray


class Feed(Protocol):
    """The blocks of every step of an array of runs, each step's for itself."""

    @property
    def names(self) -> Sequence[str]:
        """What the blocks are of: domains, or sources of conversations."""

    def batch(self, step: int, rows: slice) -> tuple[Batch, IntArray]:
        """Blocks ``rows`` of every run's step, and which of the names each is of, ``(K, B)``."""

    def realised(self, member: int) -> Sequence[Realised]:
        """What a run sees of each name over all its steps."""


class MixtureFeed:
    """Every run's mixture of the domains' tokens."""

    def __init__(
        self, samplers: Sequence[MixtureSampler], pool: TokenPool, blocks_a_step: int
    ) -> None:
        self._samplers, self._pool, self._each = samplers, pool, blocks_a_step

    @property
    def names(self) -> Sequence[str]:
        """Domains."""
        return self._samplers[0].mixture.domains

    def batch(self, step: int, rows: slice) -> tuple[Batch, IntArray]:
        """See :class:`Feed`."""
        first = step * self._each
        places = np.stack([s.places(first, self._each)[rows] for s in self._samplers])
        return Batch(self._pool.batch(places)), places[..., 0]

    def realised(self, member: int) -> Sequence[Realised]:
        """See :class:`Feed`."""
        return self._samplers[member].realised()
