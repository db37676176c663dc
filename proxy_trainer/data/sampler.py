"""Which tokens a run sees, and in which order: exact shares, seekable, seeded.

A run is a sequence of blocks of ``context`` tokens. The *schedule* says which domain each block
comes from (:mod:`proxy_trainer.data.schedule`); the *stream* of a domain is its text in a seeded
order, one permutation per epoch. Both are functions of the seed and the mixture alone, so any
position can be read directly, and two runs with one seed read the same text of a domain in the same
order whatever their mixtures: what differs between them is the mixture alone (common random
numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from proxy_trainer.data.schedule import Schedule
from proxy_trainer.data.shards import DomainTokens, IntArray
from regmix.errors import UserError
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.mixture import Mixture


class DomainStream:
    """One domain's training tokens as an endless sequence of blocks, epoch after epoch.

    The domain's documents, end to end, are cut into blocks of ``context`` tokens and the blocks
    permuted: a short proxy then sees a piece of many documents instead of a few long ones whole,
    which is most of its seed noise (docs/DECISIONS.md). Every epoch has its own permutation and its
    own offset of the cuts, so that no token is left out for good.

    Of a part of a domain (``share`` below 1) every epoch reads the same blocks, a seeded choice.
    """

    def __init__(
        self, tokens: DomainTokens, seed: int, index: int, context: int, share: float = 1.0
    ) -> None:
        self.tokens = tokens
        self._key = (seed, 2, index)
        self._context = context
        self._share = share
        # Members of an array read one stream at different epochs.
        self._starts_of = lru_cache(maxsize=4)(self._permuted)

    def check_length(self) -> None:
        """Refuse a domain that is too short to be cut into blocks.

        Raises:
            UserError: the tokens it has and the tokens it needs.
        """
        name, has = self.tokens.domain, self.tokens.tokens
        if has <= 2 * self._context:
            raise UserError(
                f"domain '{name}': {has} training tokens are too few for a context of "
                f"{self._context}; it needs more than {2 * self._context}"
            )
        if self.blocks_per_epoch < 1:
            raise UserError(
                f"domain '{name}': {self._share:.3g} of its {has:,} training tokens, which is what "
                f"matches the full run's epochs, are less than one block of {self._context}"
            )

    @property
    def blocks_per_epoch(self) -> int:
        """Blocks of one pass: whatever the offset, this many fit with a target for each token."""
        return int(self._share * self._whole)

    @property
    def _whole(self) -> int:
        return (self.tokens.tokens - self._context) // self._context

    def epochs(self, blocks: int) -> float:
        """Passes that so many blocks are; a pass leaves out the ends that fill no block."""
        return blocks / self.blocks_per_epoch if blocks else 0.0

    def start(self, number: int) -> int:
        """Where in the domain block ``number`` of the sequence begins."""
        epoch, index = divmod(number, self.blocks_per_epoch)
        return int(self._starts_of(epoch)[index])

    def _permuted(self, epoch: int) -> IntArray:
        rng = np.random.default_rng([*self._key, epoch])
        if self._share < 1:
            chosen = np.random.default_rng([*self._key, 0]).permutation(self._whole)
            part = chosen[: self.blocks_per_epoch]
            return np.asarray(self._context * (rng.permutation(part) if epoch else part))
        offset = rng.integers(self._context)
        return np.asarray(offset + self._context * rng.permutation(self._whole))


def open_streams(
    layout: StudyLayout, manifest: DataManifest, *, context: int, seed: int, share: float = 1.0
) -> dict[str, DomainStream]:
    """Every domain's stream, by name; what runs with one seed read they can share."""
    return {
        name: DomainStream(
            DomainTokens(layout, manifest, name, "train"), seed, index, context, share
        )
        for index, name in enumerate(manifest.names)
    }


@dataclass(frozen=True)
class Realised:
    """What a run really saw of one domain."""

    domain: str
    requested: float
    realised: float
    """Share of the run's blocks."""
    tokens: int
    epochs: float
    """Passes over the domain's blocks; above 1, some text was read again."""


class MixtureSampler:
    """Batches of a run by block position."""

    def __init__(
        self,
        streams: Mapping[str, DomainStream],
        mixture: Mixture,
        *,
        context: int,
        blocks: int,
        seed: int,
    ) -> None:
        """Sample from :func:`open_streams` of the same context and seed.

        Raises:
            UserError: the mixture is over other domains, or one of them is too short.
        """
        if mixture.domains != tuple(streams):
            raise UserError(
                f"the mixture is over {', '.join(mixture.domains)}; "
                f"the data holds {', '.join(streams)}"
            )
        self.mixture = mixture
        self.context = context
        self.blocks = blocks
        self._schedule = Schedule(mixture.array(), blocks, seed)
        self._streams = list(streams.values())
        for stream, weight in zip(self._streams, mixture.weights, strict=True):
            if weight > 0:
                stream.check_length()

    def places(self, first: int, count: int) -> IntArray:
        """Domain and start in it of blocks ``first`` to ``first + count``, shape ``(count, 2)``."""
        out = self._schedule.read(first, count)
        for row, (domain, number) in enumerate(out.tolist()):
            out[row, 1] = self._streams[domain].start(number)
        return out

    def realised(self) -> list[Realised]:
        """Requested and realised share, tokens and epochs per domain over the whole run."""
        counts = self._schedule.counts()
        return [
            Realised(
                domain=name,
                requested=self.mixture[name],
                realised=float(count / self.blocks),
                tokens=int(count * self.context),
                epochs=stream.epochs(int(count)),
            )
            for name, count, stream in zip(self.mixture.domains, counts, self._streams, strict=True)
        ]
