"""Building blocks of a model array: K models at once, each tensor with a leading K.

On a GPU they are plain batched operations, which a compiler can fuse. On a CPU single precision
takes hand-written gradients: fewer passes over memory than autograd's, and matrix products by
oneDNN, whose kernels use AVX-512 wherever the processor has it (the BLAS behind ``torch.mm`` does
so on some makers' processors only; docs/DECISIONS.md has the figures). Members never mix: what a
member comes to does not depend on how many others are computed with it.

Shapes are in suffixes: K members, N rows, D inputs, O outputs, B batch, T time, C channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_trainer.models.gpt import NORM_EPS


def on_cpu(x: Tensor) -> bool:
    """Whether the CPU's kernels take this tensor; other types and devices go the general way."""
    single = x.device.type == "cpu" and x.dtype == torch.float32
    return single and not torch.is_autocast_enabled("cpu")


def matmul(a_KNM: Tensor, b_KMO: Tensor) -> Tensor:
    """Batched matrix product ``(K, N, O)``; on a CPU without a gradient."""
    if not (on_cpu(a_KNM) and torch.backends.mkldnn.is_available()):
        return torch.bmm(a_KNM, b_KMO)
    if len(a_KNM) == 1:
        return product(a_KNM[0], b_KMO[0])[None]
    return torch.stack([product(a, b) for a, b in zip(a_KNM, b_KMO, strict=True)])


def product(a_NM: Tensor, b_MO: Tensor) -> Tensor:
    """``a @ b`` of two matrices of any strides by oneDNN, ``(N, O)``; no gradient."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a_NM, b_MO.t(), None, "none", [], "")
    return found


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


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale.square_().mul_(1 / x.shape[-1]).add_(NORM_EPS).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        y: Tensor = normed * weight
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        normed, scale, weight = ctx.saved_tensors
        product = g * normed
        # The weight is one row a member: everything between it and the last dimension is summed.
        between = [d for d in range(1, g.dim() - 1) if weight.shape[d] == 1]
        grad_weight = product.sum(between, keepdim=True)
        centre = product.mul_(weight).mean(-1, keepdim=True).neg_()
        return (g * weight).addcmul_(normed, centre).mul_(scale), grad_weight


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
        opened = F.silu(gate)
        ctx.save_for_backward(x, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, opened = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        grad = torch.empty_like(x)
        grad_gate, grad_up = grad.chunk(2, -1)
        torch.mul(g, opened, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(g * up, gate, grad_input=grad_gate)
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
_BLOCKS = 4


class _Attention(torch.autograd.Function):
    """Causal attention in blocks of queries, which skip the keys that come after all of them."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, turn_TE: Tensor, heads: int) -> Tensor:
        B, T, C = x_BTC.shape
        E = C // (3 * heads)
        split = x_BTC.view(B, T, 3, heads, E).permute(2, 0, 3, 1, 4).contiguous()
        _turn_(split[:2], turn_TE)
        q, k, v = split.flatten(1, 2)
        y_BTHE = x_BTC.new_empty(B, T, heads, E)
        weights = []
        for start, stop in _query_blocks(T):
            p = torch.baddbmm(
                _future(start, stop).expand(len(q), -1, -1),
                q[:, start:stop], k[:, :stop].transpose(1, 2), alpha=E**-0.5,
            )  # fmt: skip
            torch.softmax(p, -1, out=p)
            found = torch.bmm(p, v[:, :stop]).view(B, heads, -1, E)
            y_BTHE[:, start:stop] = found.transpose(1, 2)
            weights.append(p)
        ctx.save_for_backward(split, turn_TE, *weights)
        return y_BTHE.view(B, T, heads * E)

    @staticmethod
    def backward(ctx: Any, g_BTD: Tensor) -> tuple[Tensor, None, None]:
        split, turn_TE, *weights = ctx.saved_tensors
        _, B, heads, T, E = split.shape
        q, k, v = split.flatten(1, 2)
        g_BTHE = g_BTD.view(B, T, heads, E)
        grad = torch.empty_like(split)
        grad_q, grad_k, grad_v = grad.flatten(1, 2)
        # The last block has seen every key: what it gives needs nothing to be added to.
        for (start, stop), p in zip(reversed(_query_blocks(T)), reversed(weights), strict=True):
            g = g_BTHE[:, start:stop].transpose(1, 2).reshape(B * heads, -1, E)
            dp = torch.bmm(g, v[:, :stop].transpose(1, 2))
            torch._softmax_backward_data(dp, p, -1, dp.dtype, grad_input=dp)
            grad_q[:, start:stop] = torch.bmm(dp, k[:, :stop])
            own_k = torch.bmm(dp.transpose(1, 2), q[:, start:stop])
            own_v = torch.bmm(p.transpose(1, 2), g)
            if stop == T:
                grad_k.copy_(own_k)
                grad_v.copy_(own_v)
            else:
                grad_k[:, :stop] += own_k
                grad_v[:, :stop] += own_v
        # One product undoes the turn and scales, as the products of queries and keys were.
        _turn_(grad[:2], turn_TE.conj() * E**-0.5)
        return grad.permute(1, 3, 0, 2, 4).reshape(B, T, 3 * heads * E), None, None


def _turn_(x: Tensor, turn_TE: Tensor) -> None:
    torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turn_TE)


def _query_blocks(length: int) -> list[tuple[int, int]]:
    step = -(-length // _BLOCKS)
    return [(t, min(t + step, length)) for t in range(0, length, step)]


@lru_cache(maxsize=256)
def _future(start: int, stop: int) -> Tensor:
    """-inf where a key comes after the query, ``(queries, keys)``; single precision."""
    return torch.full((stop - start, stop), -torch.inf).triu(1 + start)


def causal_attention(x_BTC: Tensor, turn_TE: Tensor, heads: int) -> Tensor:
    """Rotary causal self-attention from queries, keys and values side by side, ``(B, T, D)``.

    For a CPU, as many key-value heads as heads, and no more than ``LONGEST_IN_BLOCKS`` positions.

    Args:
        turn_TE: complex, one a pair of a head's channels.
    """
    found: Tensor = _Attention.apply(x_BTC, turn_TE, heads)  # type: ignore[no-untyped-call]
    return found


def document_mask(ids_BT: Tensor, separator: int) -> Tensor:
    """Which positions may attend to which, ``(B, 1, T, T)``: earlier ones of their document."""
    ends = (ids_BT == separator).long()
    document = ends.cumsum(1) - ends  # the separator belongs to the document that it ends
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]
