"""Next-token cross-entropy that never holds the logits of a whole batch.

The head of a small model is most of its work, and its logits most of its memory traffic. Loss
and gradient of a chunk of rows are computed together while the chunk is in the cache, so that
the backward pass only scales what is already there. N rows, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 64
"""Rows a chunk: 64 x 4,096 floats are 1 MB, the second-level cache of a current core."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, z_loss: float
    ) -> Tensor:
        count = hidden_ND.shape[0]
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD)
        total = hidden_ND.new_zeros(())
        for start in range(0, count, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            h, t = hidden_ND[rows], target_N[rows, None]
            logits_NV = h @ weight_VD.T
            picked_N1 = logits_NV.gather(1, t)
            top_N1 = logits_NV.amax(-1, keepdim=True)
            grad_NV = logits_NV.sub_(top_N1).exp_()  # one exponential serves loss and gradient
            sum_N1 = grad_NV.sum(-1, keepdim=True)
            grad_NV.div_(sum_N1)
            lse_N1 = top_N1 + sum_N1.log()
            total += (lse_N1 - picked_N1).sum() + z_loss * lse_N1.square().sum()
            if z_loss:
                grad_NV.mul_(1 + 2 * z_loss * lse_N1)
            grad_NV.scatter_add_(1, t, grad_NV.new_full((1, 1), -1.0).expand_as(t))
            torch.mm(grad_NV, weight_VD, out=grad_hidden_ND[rows])
            grad_weight_VD.addmm_(grad_NV.T, h)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        scale = grad / ctx.count
        return grad_hidden_ND * scale, grad_weight_VD * scale, None, None


def cross_entropy(
    hidden_BTD: Tensor, weight_VD: Tensor, target_BT: Tensor, z_loss: float = 0.0
) -> Tensor:
    """Mean nats a token, plus ``z_loss`` times the mean squared log-partition (PaLM, sec. 5).

    Gradients reach ``hidden_BTD`` and ``weight_VD``; the result can be differentiated once.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_BTD.flatten(0, 1), weight_VD, target_BT.flatten(), z_loss
    )
    return loss


@torch.no_grad()
def token_nats(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """Negative log-likelihood of every target in nats, ``(N,)``; no gradient."""
    parts = []
    for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        logits_NV = hidden_ND[rows] @ weight_VD.T
        picked_N = logits_NV.gather(1, target_N[rows, None]).squeeze(1)
        parts.append(logits_NV.logsumexp(-1) - picked_N)
    return torch.cat(parts)
