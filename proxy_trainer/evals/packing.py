"""Prompts side by side with their choices in one row, each choice blind to the others.

A row is a prompt's own tokens and then, for every choice, all of its tokens but the last. A token
of a choice stands where it would stand right after the prompt, and sees the prompt and what is
before it in its own choice. So the prompt is computed once for all choices.

Shapes are in suffixes: B rows, T positions, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proxy_trainer.data.shards import IntArray
from proxy_trainer.evals.prompts import Prompt


@dataclass(frozen=True)
class Pack:
    """Rows of prompts that share what is before them."""

    ids_BT: Tensor
    place_BT: Tensor
    """From what is shared on."""
    seen_BTT: Tensor
    """What each position sees of its row; padding sees itself."""
    at_N: Tensor
    """Positions of all rows, one row after the other, that say something of a scored token."""
    target_N: Tensor
    """The scored tokens: prompt by prompt, choice by choice."""
    lengths: IntArray
    """Scored tokens of each choice."""

    def to(self, device: torch.device) -> Pack:
        """On another device."""
        return Pack(
            self.ids_BT.to(device),
            self.place_BT.to(device),
            self.seen_BTT.to(device),
            self.at_N.to(device),
            self.target_N.to(device),
            self.lengths,
        )

    def after(self, shared_P: Tensor) -> Pack:
        """The same rows with what is shared written out before each."""
        (B, T), P = self.ids_BT.shape, len(shared_P)
        place_P = torch.arange(P, device=shared_P.device)
        seen_BSS = torch.zeros(B, P + T, P + T, dtype=torch.bool, device=shared_P.device)
        seen_BSS[:, :, :P] = place_P <= torch.arange(P + T, device=shared_P.device)[:, None]
        seen_BSS[:, P:, P:] = self.seen_BTT
        return Pack(
            torch.cat([shared_P.expand(B, -1), self.ids_BT], 1),
            torch.cat([place_P.expand(B, -1), self.place_BT + P], 1),
            seen_BSS,
            self.at_N + P * (1 + self.at_N // T),
            self.target_N,
            self.lengths,
        )


def pack(prompts: Sequence[Prompt]) -> Pack:
    """Prompts as rows, right-padded to the longest."""
    B, T = len(prompts), max(p.inputs for p in prompts)
    ids_BT = np.zeros((B, T), dtype=np.int64)
    place_BT = np.zeros((B, T), dtype=np.int64)
    branch_BT = np.full((B, T), -1, dtype=np.int64)
    """The choice that a position belongs to, from 1; 0 for the prompt, -1 for padding."""
    at: list[IntArray] = []
    targets: list[IntArray] = []
    for row, prompt in enumerate(prompts):
        own = len(prompt.own)
        ids_BT[row, :own], place_BT[row, :own] = prompt.own, np.arange(own)
        branch_BT[row, :own] = 0
        start = own
        for number, choice in enumerate(prompt.choices, 1):
            stop = start + len(choice) - 1
            ids_BT[row, start:stop] = choice[:-1]
            place_BT[row, start:stop] = own + np.arange(stop - start)
            branch_BT[row, start:stop] = number
            at.append(row * T + np.concatenate([[own - 1], np.arange(start, stop)]))
            targets.append(choice)
            start = stop
    return Pack(
        torch.from_numpy(ids_BT),
        torch.from_numpy(place_BT),
        torch.from_numpy(_seen(branch_BT)),
        torch.from_numpy(np.concatenate(at)),
        torch.from_numpy(np.concatenate(targets)),
        np.asarray([len(t) for t in targets], dtype=np.int64),
    )


def _seen(branch_BT: IntArray) -> np.ndarray:
    same = branch_BT[:, :, None] == branch_BT[:, None, :]
    prompt = (branch_BT[:, None, :] == 0) & (branch_BT[:, :, None] >= 0)
    earlier = np.tril(np.ones(branch_BT.shape[1:] * 2, dtype=bool))
    found: np.ndarray = (same | prompt) & earlier
    return found
