"""Conversations as the trainer asks for them: every run's blocks, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from proxy_trainer.data.batch import Batch
from proxy_trainer.data.chat.sampler import ChatSampler
from proxy_trainer.data.sampler import Realised
from proxy_trainer.data.shards import IntArray
from proxy_trainer.to_device import to_device


class ChatFeed:
    """The :class:`proxy_trainer.data.feed.Feed` of runs over the same conversations."""

    def __init__(
        self, samplers: Sequence[ChatSampler], blocks_a_step: int, device: torch.device
    ) -> None:
        self._samplers, self._each, self._device = samplers, blocks_a_step, device

    @property
    def names(self) -> Sequence[str]:
        """Sources."""
        return self._samplers[0].names

    def batch(self, step: int, rows: slice) -> tuple[Batch, IntArray]:
        """Blocks of a step; what is padding counts for nothing."""
        first = step * self._each
        places = [s.places(first, self._each)[rows] for s in self._samplers]
        made = [s.batch(own) for s, own in zip(self._samplers, places, strict=True)]
        batch = Batch(
            self._tensor([b.ids for b in made]),
            self._tensor([b.weights for b in made]).float(),
            self._tensor([b.documents for b in made]),
        )
        return batch, np.stack(places)[..., 0]

    def realised(self, member: int) -> Sequence[Realised]:
        """What a run sees of each source over all its steps."""
        return self._samplers[member].realised()

    def _tensor(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return to_device(torch.from_numpy(np.stack(arrays)), self._device)
