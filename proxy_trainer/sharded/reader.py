"""A sharded model that is asked questions as it trains, by all processes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from proxy_trainer.data.shards import IntArray
from proxy_trainer.evals.choice import WEIGHTS_AT_ONCE, Scores
from proxy_trainer.evals.packing import Pack
from proxy_trainer.sharded.model import ShardedModel


@dataclass(frozen=True)
class ShardedReader:
    """:class:`proxy_trainer.evals.choice.Reader`: every process reads its part of the rows.

    All of them find all figures, the same to the bit. What prompts share is written out before
    each, as for any single decoder.
    """

    model: ShardedModel
    members: int = 1

    def rows(self, shared: int, length: int) -> int:
        """As many as every process's memory for attention weights allows."""
        weights = self.model.shape.heads * (shared + length) ** 2
        each = max(1, WEIGHTS_AT_ONCE[self.model.ranks.device.type] // weights)
        return each * self.model.ranks.world

    def reads(self, shared: int, lengths: Sequence[int]) -> int:
        """What is shared with every one of them."""
        return shared * len(lengths) + sum(lengths)

    def after(self, shared_P: IntArray) -> Callable[[Pack], Scores]:
        """What the protocol asks for; called in all processes, with the same."""
        device = self.model.ranks.device
        shared = torch.from_numpy(shared_P).to(device)

        def scores(given: Pack) -> Scores:
            on = given.to(device).after(shared)
            return self.model.scored(on.ids_BT, on.seen_BTT, on.place_BT, on.at_N, on.target_N)

        return scores
