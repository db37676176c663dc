"""Which conversations a run sees, in which blocks and in which order: seeded, seekable.

Every source is a sequence of epochs. An epoch is the source's conversations in an order of its own,
packed whole into blocks of ``context`` tokens, the blocks in an order of their own; all of it a
function of the seed, the source's name and the epoch alone. Of a fractional number of epochs the
last is a seeded part. A block holds one source; the *schedule* interleaves those of all sources as
evenly as that of domains does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proxy_trainer.data.chat.packing import pack_in_windows
from proxy_trainer.data.chat.shards import ChatManifest, ChatTokens
from proxy_trainer.data.sampler import Realised
from proxy_trainer.data.schedule import Schedule
from proxy_trainer.data.shards import IntArray
from regmix.chat import ChatData
from regmix.errors import UserError
from regmix.hashing import fingerprint

PADDING = -1
"""In the place of a block's number: there is none, the block is padding alone."""


def source_epochs(
    data: ChatData, manifest: ChatManifest, tokens: int | None = None
) -> dict[str, float]:
    """How often a run passes over each source.

    Args:
        tokens: of the whole run, where the sources have weights; all sources' once if not given.

    Raises:
        UserError: the sources are not those of the manifest, or they have epochs, from which the
            tokens follow.
    """
    if data.names != manifest.names:
        raise UserError(
            f"the stage has the sources {', '.join(data.names)}; "
            f"the conversations were built of {', '.join(manifest.names)}"
        )
    mixture = data.mixture()
    if mixture is None:
        if tokens is not None:
            raise UserError(
                f"tokens: {tokens:,} were asked for, but the sources have epochs, from which they "
                "follow; leave tokens out, or give the sources weights"
            )
        return {s.name: s.epochs for s in data.sources if s.epochs is not None}
    asked = manifest.tokens if tokens is None else tokens
    return {name: mixture[name] * asked / manifest.source(name).tokens for name in data.names}


@dataclass(frozen=True)
class RealisedSource(Realised):
    """What a run really sees of one source; ``domain`` is its name, shares are of tokens."""

    conversations: int
    trained_tokens: int
    """Tokens that carry loss."""
    blocks: int


@dataclass(frozen=True)
class ChatBlocks:
    """Blocks of ``T`` input tokens; ``B`` of them, or no such dimension for one alone."""

    ids: IntArray
    """Token ids with the one after each, ``(B, T + 1)``: conversations, then padding. The last is
    always padding."""
    weights: npt.NDArray[np.uint8]
    """1 where the token after is trained, ``(B, T)``. It is then of the same conversation."""
    documents: npt.NDArray[np.int32]
    """The conversation that each input token belongs to, ``(B, T)``, counted from 0 in each block;
    padding has the number after the last."""


class ChatSampler:
    """Blocks of a run by position."""

    def __init__(
        self,
        sources: Mapping[str, ChatTokens],
        epochs: Mapping[str, float],
        *,
        context: int,
        seed: int,
        pad_id: int,
    ) -> None:
        """Plan a run over :func:`proxy_trainer.data.chat.shards.open_sources`.

        Args:
            epochs: passes over each source, by name; see :func:`source_epochs`.
            pad_id: fills blocks up; it carries no loss.

        Raises:
            UserError: epochs of other sources, a source too rarely read for a single conversation,
                or a conversation longer than the context.
        """
        if set(sources) != set(epochs):
            raise UserError(
                f"epochs are given for {', '.join(epochs)}; the sources are {', '.join(sources)}"
            )
        self.context, self._pad_id = context, pad_id
        self._sources = list(sources.values())
        self._epochs = [float(epochs[name]) for name in sources]
        self._plans = [
            _Plan.of(tokens, wanted, context, seed)
            for tokens, wanted in zip(self._sources, self._epochs, strict=True)
        ]
        counts = np.array([plan.blocks for plan in self._plans])
        self.blocks = int(counts.sum())
        """Blocks of the whole run."""
        self._schedule = Schedule(counts / self.blocks, self.blocks, seed)
        assert (self._schedule.counts() == counts).all()

    @property
    def names(self) -> tuple[str, ...]:
        """Source names."""
        return tuple(source.source for source in self._sources)

    @property
    def fill(self) -> float:
        """Share of the run's tokens that are not padding."""
        return sum(plan.tokens for plan in self._plans) / (self.blocks * self.context)

    def steps(self, batch: int) -> int:
        """Steps of ``batch`` blocks until every block was read; the last is filled with padding."""
        return math.ceil(self.blocks / batch)

    def places(self, first: int, count: int) -> IntArray:
        """Source and number in it of blocks ``first`` to ``first + count``, shape ``(count, 2)``.

        Beyond the last block the number is :data:`PADDING`, so that a last step can be whole.

        Raises:
            IndexError: there is none of these blocks.
        """
        if not 0 <= first < self.blocks:
            raise IndexError(f"block {first} of a run of {self.blocks}")
        out = np.zeros((count, 2), dtype=np.int64)
        there = min(count, self.blocks - first)
        out[:there] = self._schedule.read(first, there)
        out[there:, 1] = PADDING
        return out

    def batch(self, places: IntArray) -> ChatBlocks:
        """The blocks at ``places``, shape ``(B, 2)``."""
        made = [self._block(int(source), int(number)) for source, number in places]
        return ChatBlocks(
            np.stack([b.ids for b in made]),
            np.stack([b.weights for b in made]),
            np.stack([b.documents for b in made]),
        )

    def block(self, index: int) -> ChatBlocks:
        """One block of the run.

        Raises:
            IndexError: there is no such block.
        """
        source, number = self.places(index, 1)[0]
        return self._block(int(source), int(number))

    def realised(self) -> list[RealisedSource]:
        """Requested and realised share of the tokens, and epochs, by source over the whole run."""
        asked = [e * s.tokens for e, s in zip(self._epochs, self._sources, strict=True)]
        total = sum(plan.tokens for plan in self._plans)
        return [
            RealisedSource(
                domain=source.source,
                requested=wanted / math.fsum(asked),
                realised=plan.tokens / total,
                tokens=plan.tokens,
                epochs=plan.tokens / source.tokens,
                conversations=len(plan.order),
                trained_tokens=int(source.trained[plan.order].sum()),
                blocks=plan.blocks,
            )
            for source, plan, wanted in zip(self._sources, self._plans, asked, strict=True)
        ]

    def _block(self, source: int, number: int) -> ChatBlocks:
        T = self.context
        ids = np.full(T + 1, self._pad_id, dtype=np.int64)
        trained = np.zeros(T + 1, dtype=np.uint8)
        held = self._plans[source].block(number) if number != PADDING else ()
        documents = np.full(T, len(held), dtype=np.int32)
        at = 0
        for place, conversation in enumerate(held):
            own, mask = self._sources[source].conversation(int(conversation))
            span = slice(at, at + len(own))
            ids[span], trained[span], documents[span] = own, mask, place
            at += len(own)
        return ChatBlocks(ids, trained[1:], documents)


@dataclass(frozen=True)
class _Plan:
    """One source's blocks over a run."""

    order: IntArray
    """Conversations, block after block."""
    ends: IntArray
    """Where in ``order`` each block ends."""
    tokens: int

    @classmethod
    def of(cls, source: ChatTokens, epochs: float, context: int, seed: int) -> _Plan:
        longest = int(source.lengths.max())
        if longest > context:
            raise UserError(
                f"source '{source.source}': a conversation has {longest} tokens, the context is "
                f"{context}; build the conversations for this context"
            )
        key = [seed, 3, int(fingerprint(source.source), 16)]
        packed: list[list[int]] = []
        for epoch in range(math.ceil(epochs)):
            rng = np.random.default_rng([*key, epoch])
            chosen = rng.permutation(source.conversations)
            if epoch + 1 > epochs:
                chosen = _part(chosen, source.lengths, (epochs - epoch) * source.tokens)
            blocks = pack_in_windows(source.lengths[chosen], context) if len(chosen) else []
            packed += [chosen[blocks[b]].tolist() for b in rng.permutation(len(blocks))]
        if not packed:
            raise UserError(
                f"source '{source.source}': {epochs:.3g} epochs of its {source.tokens:,} tokens "
                "are less than half a conversation; raise its share, or leave it out"
            )
        order = np.concatenate([np.asarray(block, dtype=np.int64) for block in packed])
        ends = np.cumsum([len(block) for block in packed])
        return cls(order, ends, int(source.lengths[order].sum()))

    @property
    def blocks(self) -> int:
        return len(self.ends)

    def block(self, number: int) -> IntArray:
        first = self.ends[number - 1] if number else 0
        return self.order[first : self.ends[number]]


def _part(order: IntArray, lengths: IntArray, tokens: float) -> IntArray:
    """The first conversations of an order, as many as come nearest to a number of tokens."""
    sums = np.concatenate([[0], np.cumsum(lengths[order])])
    return order[: int(np.argmin(np.abs(sums - tokens)))]
