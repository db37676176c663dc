"""All training tokens of a study: on disk for a CPU, in its memory for a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from proxy_trainer.data.sampler import DomainStream
from proxy_trainer.data.shards import DomainTokens, IntArray
from proxy_trainer.device_memory import free_on
from proxy_trainer.to_device import to_device

_MARGIN = 0.25
"""Share of a device's free memory that the pool may take."""
_PIECE = 2**24
"""Tokens that are copied to a device at a time: 64 MB of the host's memory, whatever the data."""


def _fits(size: int, device: torch.device) -> bool:
    return size < _MARGIN * free_on(device)


def _held(tokens: Sequence[DomainTokens], device: torch.device) -> Tensor:
    """All domains' tokens end to end in a device's memory."""
    pool = torch.empty(sum(t.tokens for t in tokens), dtype=torch.int32, device=device)
    at = 0
    for domain in tokens:
        for piece in domain.pieces(_PIECE):
            pool[at : at + len(piece)] = torch.from_numpy(piece.astype(np.int32))
            at += len(piece)
    return pool


class TokenPool:
    """Looks blocks up by domain and start.

    On a GPU the pool is copied there once, if it fits, so that a step needs nothing of the host
    but the places of its blocks.
    """

    def __init__(
        self,
        streams: Mapping[str, DomainStream],
        *,
        context: int,
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        """Nothing is read yet, or all of it.

        Args:
            resident: whether all tokens are held on the device; by default on a GPU that has room.
        """
        self._tokens = [s.tokens for s in streams.values()]
        self._context, self._device = context, device
        ends = np.cumsum([t.tokens for t in self._tokens])
        self._base = torch.from_numpy(np.concatenate([[0], ends[:-1]]))
        self._span = torch.arange(context + 1, device=device)
        if resident is None:
            resident = device.type == "cuda" and _fits(4 * int(ends[-1]), device)
        self.resident = resident
        if self.resident:
            self._pool = _held(self._tokens, device)

    def batch(self, places: IntArray) -> Tensor:
        """Blocks with the token after each, ``(..., context + 1)``, for ``places`` ``(..., 2)``."""
        if self.resident:
            found = torch.from_numpy(places)
            starts = to_device(self._base[found[..., 0]] + found[..., 1], self._device)
            return self._pool[starts[..., None] + self._span].long()
        flat = places.reshape(-1, 2)
        out = np.empty((len(flat), self._context + 1), dtype=np.int64)
        for row, (domain, start) in enumerate(flat):
            out[row] = self._tokens[domain].take(np.arange(start, start + self._context + 1))
        ids = torch.from_numpy(out.reshape(*places.shape[:-1], self._context + 1))
        return to_device(ids, self._device)
