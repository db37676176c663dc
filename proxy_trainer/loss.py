"""Next-token cross-entropy that never holds the logits of a whole batch.

The head of a small model is most of its work, and its logits most of its memory traffic. Loss
and gradient of a chunk of rows are computed together while the chunk is in the cache, so that
the backward pass only scales what is already there.

Shapes are in suffixes: K members, N rows, R rows of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from proxy_trainer.models.products import matmul, on_cpu

CHUNK_LOGITS = {"cpu": 2**20, "cuda": 2**28}
"""Logits a chunk. On a CPU 4 MB: of the third-level cache a core's share, and more rows a product
than the second level would hold, which is faster (docs/DECISIONS.md); on a GPU 1 GB."""
LEAST_ROWS = 4096
"""Rows of a chunk on a GPU before members share one: each chunk reads its members' heads, and reads
and writes the gradients of these, which fewer rows would not be worth."""
_FAINT = 1e-30
"""Probabilities below it are too near to underflow for their logarithm to be taken."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_KND: Tensor,
        weight_KDV: Tensor,
        target_KN: Tensor,
        share_KN: Tensor | None,
        z_loss: float,
    ) -> tuple[Tensor, Tensor]:
        K, N, _ = hidden_KND.shape
        grad_hidden_KND = torch.empty_like(hidden_KND)
        grad_weight_KDV = torch.zeros_like(weight_KDV)
        total_K = hidden_KND.new_zeros(K)
        nats_KN = hidden_KND.new_empty(K, N, dtype=_exact(hidden_KND))
        for members, rows in _chunks(hidden_KND.device.type, K, N, weight_KDV.shape[2]):
            h, w, t = hidden_KND[members, rows], weight_KDV[members], target_KN[members, rows]
            p_KRV, nats_KR, lse_KR = _softmax(h, w, t[..., None])
            nats_KN[members, rows] = nats_KR
            lost_KR = nats_KR + z_loss * lse_KR.square()
            if z_loss:
                p_KRV.mul_(1 + 2 * z_loss * lse_KR[..., None])
            p_KRV.scatter_add_(2, t[..., None], p_KRV.new_full((1, 1, 1), -1.0).expand(*t.shape, 1))
            if share_KN is not None:
                lost_KR = lost_KR * share_KN[members, rows]
                p_KRV.mul_(share_KN[members, rows, None])
            total_K[members] += lost_KR.sum(1)
            grad_hidden_KND[members, rows] = matmul(p_KRV, w.transpose(1, 2))
            grad_weight_KDV[members] += matmul(h.transpose(1, 2), p_KRV)
        ctx.save_for_backward(grad_hidden_KND, grad_weight_KDV)
        ctx.scale = 1 / N if share_KN is None else 1.0
        ctx.mark_non_differentiable(nats_KN)
        return total_K * ctx.scale, nats_KN

    @staticmethod
    def backward(ctx: Any, grad_K: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden_KND, grad_weight_KDV = ctx.saved_tensors
        scale_K11 = (grad_K * ctx.scale)[:, None, None]
        return grad_hidden_KND * scale_K11, grad_weight_KDV * scale_K11, None, None, None


def _chunks(device: str, members: int, rows: int, vocabulary: int) -> list[tuple[slice, slice]]:
    """Members and rows of every chunk; one member at a time where a cache is to hold it.

    Args:
        device: the type of the device.
    """
    logits = CHUNK_LOGITS[device]
    each = 1
    if device != "cpu":
        each = max(1, min(members, logits // (vocabulary * min(rows, LEAST_ROWS))))
    step = max(1, logits // (each * vocabulary))
    return [
        (slice(k, k + each), slice(n, n + step))
        for k in range(0, members, each)
        for n in range(0, rows, step)
    ]


def _softmax(h_KRD: Tensor, w_KDV: Tensor, target_KR1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities ``(K, R, V)``, nats of the targets and log-partitions, ``(K, R)`` each."""
    logits_KRV = matmul(h_KRD, w_KDV).to(_exact(h_KRD))
    picked_KR = logits_KRV.gather(2, target_KR1).squeeze(2)
    if not on_cpu(logits_KRV):
        lse_KR = logits_KRV.logsumexp(2)
        return logits_KRV.sub_(lse_KR[..., None]).exp_(), lse_KR - picked_KR, lse_KR
    # In place and in one pass, with the nats from the probabilities; a target too faint for that
    # (or not finite) is rare, and its chunk is done over.
    p_KRV = torch.softmax(logits_KRV, 2, out=logits_KRV)
    found_KR = p_KRV.gather(2, target_KR1).squeeze(2)
    nats_KR = -found_KR.log()
    if not bool((found_KR > _FAINT).all()):
        nats_KR = matmul(h_KRD, w_KDV).logsumexp(2) - picked_KR
    return p_KRV, nats_KR, picked_KR + nats_KR


def _exact(x: Tensor) -> torch.dtype:
    """What sums over a vocabulary are taken in, also where products are in half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def cross_entropy(
    hidden_KND: Tensor,
    weight_KDV: Tensor,
    target_KN: Tensor,
    z_loss: float = 0.0,
    share_KN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Every member's loss in nats, ``(K,)``, and every token's nats without gradient, ``(K, N)``.

    Args:
        z_loss: times the squared log-partition is added (PaLM, arXiv 2204.02311, section 5).
        share_KN: what each token counts for; the mean over all of them if not given.

    Gradients of the loss reach ``hidden_KND`` and ``weight_KDV``; it can be differentiated once.
    """
    found: tuple[Tensor, Tensor] = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_KND, weight_KDV, target_KN, share_KN, z_loss
    )
    return found


@torch.no_grad()
def token_nats(hidden_KND: Tensor, weight_KDV: Tensor, target_KN: Tensor) -> Tensor:
    """Negative log-likelihood of every target in nats, ``(K, N)``; no gradient."""
    found_KN = hidden_KND.new_empty(target_KN.shape)
    K, N, _ = hidden_KND.shape
    for members, rows in _chunks(hidden_KND.device.type, K, N, weight_KDV.shape[2]):
        logits_KRV = matmul(hidden_KND[members, rows], weight_KDV[members])
        logits_KRV = logits_KRV.to(_exact(hidden_KND))
        target_KR1 = target_KN[members, rows, None]
        picked_KR = logits_KRV.gather(2, target_KR1).squeeze(2)
        found_KN[members, rows] = logits_KRV.logsumexp(2) - picked_KR
    return found_KN


@torch.no_grad()
def token_scores(
    hidden_KND: Tensor, weight_KDV: Tensor, target_KN: Tensor
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods as :func:`token_nats`, and whether no token is likelier."""
    found_KN = hidden_KND.new_empty(target_KN.shape)
    best_KN = torch.empty_like(found_KN, dtype=torch.bool)
    K, N, _ = hidden_KND.shape
    for members, rows in _chunks(hidden_KND.device.type, K, N, weight_KDV.shape[2]):
        logits_KRV = matmul(hidden_KND[members, rows], weight_KDV[members])
        logits_KRV = logits_KRV.to(_exact(hidden_KND))
        picked_KR = logits_KRV.gather(2, target_KN[members, rows, None]).squeeze(2)
        top_KR = logits_KRV.amax(2)
        sum_KR = logits_KRV.sub_(top_KR[..., None]).exp_().sum(2)
        found_KN[members, rows] = sum_KR.log_() + (top_KR - picked_KR)
        best_KN[members, rows] = picked_KR == top_KR
    return found_KN, best_KN


def by_row(nats_KN: Tensor, keep_BT: Tensor) -> Tensor:
    """Sums over the kept positions of each row, ``(K, B)``, in double precision.

    Args:
        nats_KN: of the kept positions of all rows, one after the other.
    """
    spread_KBT = nats_KN.new_zeros((len(nats_KN), *keep_BT.shape), dtype=torch.float64)
    spread_KBT[:, keep_BT] = nats_KN.double()
    return spread_KBT.sum(2)
