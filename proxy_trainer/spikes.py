"""Steps to leave out: a loss or gradient norm far above the last ones (as OLMo-core does)."""

from __future__ import annotations

from collections.abc import Mapping

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
        self._place_W = torch.arange(WINDOW, device=device)
        self.skipped_K = torch.zeros(members, dtype=torch.int64, device=device)
        """Steps that were spikes so far."""
        self._lost_K = torch.zeros(members, dtype=torch.bool, device=device)
        """Members that something was no number of; their history ends before it."""

    def spikes(self, step: Tensor, loss_K: Tensor, norm_K: Tensor) -> Tensor:
        """Whether each member's step is a spike, ``(K,)``; remembers it.

        What is no number is none, nor is anything after it.

        Args:
            step: steps before this one, a scalar on the device.
        """
        if not self._sigma:
            return torch.zeros_like(loss_K, dtype=torch.bool)
        now_KX = torch.stack([loss_K, norm_K], dim=1)
        count = step.clamp(max=WINDOW)
        known_W11 = (self._place_W < count)[:, None, None]
        mean_KX = (self._seen_WKX * known_W11).sum(0) / count
        off_WKX = (self._seen_WKX - mean_KX) * known_W11
        limit_KX = mean_KX + self._sigma * (off_WKX.square().sum(0) / (count - 1)).sqrt()
        self._lost_K |= ~now_KX.isfinite().all(1)
        found_K = (now_KX > limit_KX).any(1) & ~self._lost_K & (step >= LEAST)
        self.skipped_K += found_K
        place_1 = (step % WINDOW)[None]
        before_1KX = self._seen_WKX.index_select(0, place_1)
        kept_1KX = torch.where(self._lost_K[:, None], before_1KX, now_KX)
        self._seen_WKX.index_copy_(0, place_1, kept_1KX)
        return found_K

    def state(self, member: int) -> dict[str, Tensor]:
        """What one member's judgement rests on; empty if nothing is judged."""
        if not self._sigma:
            return {}
        return {"seen": self._seen_WKX[:, member], "skipped": self.skipped_K[member]}

    def load(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        if self._sigma:
            self._seen_WKX[:, member] = state["seen"].to(self._seen_WKX.device)
            self.skipped_K[member] = state["skipped"].to(self.skipped_K.device)
