"""Training loss by domain, kept on the device between two looks at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proxy_trainer.data.batch import Batch
from proxy_trainer.data.shards import IntArray
from proxy_trainer.to_device import to_device


class DomainLosses:
    """Sums nats and tokens of every member's blocks by what they are of."""

    def __init__(self, names: Sequence[str], members: int, device: torch.device) -> None:
        self._names = names
        self._sum_2KD = torch.zeros(2, members, len(names), device=device)

    def add(self, batch: Batch, which_KB: IntArray, nats_KB: Tensor) -> None:
        """One step's blocks.

        Args:
            which_KB: index of each block's name.
            nats_KB: over each block's tokens that count.
        """
        index_KB = to_device(torch.from_numpy(which_KB), nats_KB.device)
        if batch.counts is None:
            tokens_KB = nats_KB.new_full(nats_KB.shape, batch.tokens.shape[-1] - 1)
        else:
            tokens_KB = batch.counts.sum(-1, dtype=nats_KB.dtype)
        both_2KB = torch.stack([nats_KB, tokens_KB]).to(self._sum_2KD.dtype)
        self._sum_2KD.scatter_add_(2, index_KB.expand_as(both_2KB), both_2KB)

    def take(self, total: Callable[[Tensor], Tensor]) -> list[dict[str, float]]:
        """Mean nats a token since the last look by name, a table a member; begins anew.

        Names that nothing was read of are left out.

        Args:
            total: sums over all processes that train the models.
        """
        nats_KD, tokens_KD = total(self._sum_2KD).tolist()
        self._sum_2KD.zero_()
        return [
            {name: n / t for name, n, t in zip(self._names, nats, tokens, strict=True) if t}
            for nats, tokens in zip(nats_KD, tokens_KD, strict=True)
        ]
