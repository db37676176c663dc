"""Building blocks of a model array: K models at once, each tensor with a leading K.

On a GPU they are plain batched operations, which a compiler can fuse. On a CPU single precision
takes hand-written gradients: fewer operations, and fewer passes over memory, than autograd's.
Members never mix: what a member comes to does not depend on how many others are computed with it.

Shapes are in suffixes: K members, N rows, D inputs, O outputs, B batch, T time, C channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_trainer.models.gpt import NORM_EPS
from proxy_trainer.models.products import batched, matmul, on_cpu


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_KND: Tensor, w_KDO: Tensor) -> Tensor:
        ctx.save_for_backward(x_KND, w_KDO)
        return matmul(x_KND, w_KDO)

    @staticmethod
    def backward(ctx: Any, g_KNO: Tensor) -> tuple[Tensor, Tensor]:
        x_KND, w_KDO = ctx.saved_tensors
        return matmul(g_KNO, w_KDO.transpose(1, 2)), matmul(x_KND.transpose(1, 2), g_KNO)


def linear(x_KND: Tensor, w_KDO: Tensor) -> Tensor:
    """Every member's rows times its own matrix, ``(K, N, O)``."""
    if not on_cpu(x_KND):
        return torch.bmm(x_KND, w_KDO)
    found: Tensor = _Linear.apply(x_KND, w_KDO)  # type: ignore[no-untyped-call]
    return found


def _normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` over the root mean square of its last dimension, and what it was multiplied by."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale.square_().mul_(1 / x.shape[-1]).add_(NORM_EPS).rsqrt_()
    return x * scale, scale


def _unnormalised_(g: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """The gradient of what was normalised from that of ``normed``, which is overwritten."""
    centre = (g * normed).mean(-1, keepdim=True).neg_()
    return g.addcmul_(normed, centre).mul_(scale)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        normed, scale = _normalised(x)
        ctx.save_for_backward(normed, scale, weight)
        y: Tensor = normed * weight
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        normed, scale, weight = ctx.saved_tensors
        # The weight is one row a member: everything between it and the last dimension is summed.
        between = [d for d in range(1, g.dim() - 1) if weight.shape[d] == 1]
        grad_weight = (g * normed).sum(between, keepdim=True)
        return _unnormalised_(g * weight, normed, scale), grad_weight


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm of the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).

    ``x`` is ``(K, ..., D)``, ``weight`` has as many dimensions: ``(K, 1, ..., D)``.
    """
    if not on_cpu(x):
        width = (x.shape[-1],)
        y: Tensor = F.rms_norm(x, width, None, NORM_EPS) * weight
        return y
    found: Tensor = _RMSNorm.apply(x, weight)  # type: ignore[no-untyped-call]
    return found


class _NormLinear(torch.autograd.Function):
    """The norm's weight goes into the matrix, which is smaller than the rows it would multiply."""

    @staticmethod
    def forward(ctx: Any, x_KND: Tensor, weight_K1D: Tensor, w_KDO: Tensor) -> Tensor:
        normed, scale = _normalised(x_KND)
        weighted_KDO = w_KDO * weight_K1D.transpose(1, 2)
        ctx.save_for_backward(normed, scale, weight_K1D, w_KDO, weighted_KDO)
        return matmul(normed, weighted_KDO)

    @staticmethod
    def backward(ctx: Any, g_KNO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed, scale, weight_K1D, w_KDO, weighted_KDO = ctx.saved_tensors
        grad_KDO = matmul(normed.transpose(1, 2), g_KNO)
        grad_weight_K1D = (grad_KDO * w_KDO).sum(2)[:, None]
        g_KND = matmul(g_KNO, weighted_KDO.transpose(1, 2))
        grad_x = _unnormalised_(g_KND, normed, scale)
        return grad_x, grad_weight_K1D, grad_KDO.mul_(weight_K1D.transpose(1, 2))


def norm_linear(x_KND: Tensor, weight_K1D: Tensor, w_KDO: Tensor) -> Tensor:
    """:func:`linear` of :func:`rms_norm`, ``(K, N, O)``."""
    if not on_cpu(x_KND):
        return linear(rms_norm(x_KND, weight_K1D), w_KDO)
    found: Tensor = _NormLinear.apply(x_KND, weight_K1D, w_KDO)  # type: ignore[no-untyped-call]
    return found


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        return _turned(x, turn)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (turn,) = ctx.saved_tensors
        return _turned(g.contiguous(), turn.conj().resolve_conj()), None


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def rotate(x_BTC: Tensor, turn_TC: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on neighbouring pairs of channels.

    Args:
        x_BTC: channels of any number of heads; neighbours belong together.
        turn_TC: complex, one a pair, :func:`turns`.
    """
    if on_cpu(x_BTC):
        found: Tensor = _Rotate.apply(x_BTC, turn_TC)  # type: ignore[no-untyped-call]
        return found
    left, right = x_BTC.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn_TC.real.to(x_BTC.dtype), turn_TC.imag.to(x_BTC.dtype)
    return torch.stack([left * cos - right * sin, left * sin + right * cos], dim=-1).flatten(-2)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        share = torch.sigmoid(gate)
        opened = gate * share
        ctx.save_for_backward(x, share, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, share, opened = ctx.saved_tensors
        up = x.chunk(2, -1)[1]
        grad = torch.empty_like(x)
        grad_gate, grad_up = grad.chunk(2, -1)
        torch.mul(g, opened, out=grad_up)
        # The slope of x sigmoid(x) is between opened and 1, as far along as its sigmoid says.
        slope = torch.lerp(opened, opened.new_ones(()), share)
        torch.mul(slope.mul_(g), up, out=grad_gate)
        return grad


def swiglu(x: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020, arXiv 2002.05202) of gate and up side by side in the last dimension."""
    if not on_cpu(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    found: Tensor = _SwiGLU.apply(x)  # type: ignore[no-untyped-call]
    return found


LONGEST_IN_BLOCKS = 512
"""Context up to which attention weights are kept for the backward pass, not computed again."""
_LEAST_BLOCK, _MOST_BLOCKS = 64, 4


class _Attention(torch.autograd.Function):
    """Causal attention in blocks of queries, which skip the keys that come after all of them."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, turn_TE: Tensor, heads: int) -> Tensor:
        B, T, C = x_BTC.shape
        E = C // (3 * heads)
        split = x_BTC.view(B, T, 3, heads, E).permute(2, 0, 3, 1, 4).contiguous()
        turns = _turns(turn_TE, E**-0.5)
        _turn_(split[:2], turns)
        q, k, v = split.flatten(1, 2)
        y_BTHE = x_BTC.new_empty(B, T, heads, E)
        weights = []
        for start, stop in _query_blocks(T):
            p = batched(q[:, start:stop], k[:, :stop].transpose(1, 2))
            p[..., start:] += _future(stop - start)
            torch.softmax(p, -1, out=p)
            found = batched(p, v[:, :stop]).view(B, heads, -1, E)
            y_BTHE[:, start:stop] = found.transpose(1, 2)
            weights.append(p)
        ctx.save_for_backward(split, turns, *weights)
        return y_BTHE.view(B, T, heads * E)

    @staticmethod
    def backward(ctx: Any, g_BTD: Tensor) -> tuple[Tensor, None, None]:
        split, turns, *weights = ctx.saved_tensors
        _, B, heads, T, E = split.shape
        q, k, v = split.flatten(1, 2)
        g = g_BTD.view(B, T, heads, E).transpose(1, 2).reshape(B * heads, T, E)
        grad = torch.empty_like(split)
        grad_q, grad_k, grad_v = grad.flatten(1, 2)
        # The last block has seen every key: what it gives needs nothing to be added to.
        for (start, stop), p in zip(reversed(_query_blocks(T)), reversed(weights), strict=True):
            own, past = slice(start, stop), slice(stop)
            dp = batched(g[:, own], v[:, past].transpose(1, 2))
            torch._softmax_backward_data(dp, p, -1, dp.dtype, grad_input=dp)
            batched(dp, k[:, past], out=grad_q[:, own])
            for into, rows, by in ((grad_k, dp, q), (grad_v, p, g)):
                if stop == T:
                    batched(rows.transpose(1, 2), by[:, own], out=into)
                else:
                    into[:, past] += batched(rows.transpose(1, 2), by[:, own])
        _turn_(grad[:2], turns.conj())
        return grad.permute(1, 3, 0, 2, 4).reshape(B, T, 3 * heads * E), None, None


def _turns(turn_TE: Tensor, scale: float) -> Tensor:
    """What queries (scaled, as their products with keys are to be) and keys are turned by."""
    return torch.stack([turn_TE * scale, turn_TE])[:, None, None]


def _turn_(x: Tensor, turns: Tensor) -> None:
    torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turns)


def _query_blocks(length: int) -> list[tuple[int, int]]:
    step = max(_LEAST_BLOCK, -(-length // _MOST_BLOCKS))
    return [(t, min(t + step, length)) for t in range(0, length, step)]


@lru_cache(maxsize=64)
def _future(length: int) -> Tensor:
    """-inf where a key comes after the query, ``(queries, keys)``; single precision."""
    return torch.full((length, length), -torch.inf).triu(1)


def causal_attention(x_BTC: Tensor, turn_TE: Tensor, heads: int) -> Tensor:
    """Rotary causal self-attention from queries, keys and values side by side, ``(B, T, D)``.

    For a CPU, as many key-value heads as heads, and no more than ``LONGEST_IN_BLOCKS`` positions.

    Args:
        turn_TE: complex, one a pair of a head's channels.
    """
    found: Tensor = _Attention.apply(x_BTC, turn_TE, heads)  # type: ignore[no-untyped-call]
    return found


def documents(ids_BT: Tensor, separator: int) -> Tensor:
    """Which document each token belongs to, ``(B, T)``; the separator ends its document."""
    ends = (ids_BT == separator).long()
    return ends.cumsum(-1) - ends


def document_mask(documents_BT: Tensor) -> Tensor:
    """Which positions may attend to which, ``(B, 1, T, T)``: earlier ones of their document."""
    same = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]
