"""Steps to leave out: a loss or gradient norm far above the last ones (as OLMo-core does)."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 128
LEAST = 64
"""Steps that must have been seen before any is left out."""


class SpikeGuard:
    """Judges every member's step by its own history, on the device and without waiting for it."""

    def __init__(self, members: int, sigma: float, device: torch.device) -> None:
        self._sigma = sigma
        self._seen_WKX = torch.zeros(WINDOW, members, 2, device=device)

    def spikes(self, step: int, loss_K: Tensor, norm_K: Tensor) -> Tensor:
        """Whether each member's step ``step`` (from 0) is a spike, ``(K,)``; remembers it."""
        found_K = torch.zeros_like(loss_K, dtype=torch.bool)
        if not self._sigma:
            return found_K
        now_KX = torch.stack([loss_K, norm_K], dim=1)
        if step >= LEAST:
            before = self._seen_WKX[: min(step, WINDOW)]
            found_K = (now_KX > before.mean(0) + self._sigma * before.std(0)).any(1)
        self._seen_WKX[step % WINDOW] = now_KX
        return found_K

    def state(self, member: int) -> dict[str, Tensor]:
        """What one member's judgement rests on; empty if nothing is judged."""
        return {"seen": self._seen_WKX[:, member]} if self._sigma else {}

    def load(self, member: int, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        if self._sigma:
            self._seen_WKX[:, member] = state["seen"].to(self._seen_WKX.device)
