"""A model array that reads many rows after one beginning, which it computes once.

The beginning's keys and values are kept by layer. Rows attend to it and to themselves; both parts
are normalised by one softmax, the one over all keys that a row written out whole would have.

Shapes are in suffixes: K members, B rows, T positions, N = B·T, P positions of the beginning,
G key-value heads, R heads a key-value head, E head width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxy_trainer.models.array import ModelArray, _Layer
from proxy_trainer.models.kernels import norm_linear, rms_norm
from proxy_trainer.models.products import batched, on_cpu


@dataclass(frozen=True)
class Beginning:
    """What is kept of tokens that come before all rows."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, ``(K·G, P, E)``; none of a beginning without tokens."""


@torch.no_grad()
def begin(array: ModelArray, ids_P: Tensor) -> Beginning:
    """Compute the tokens that all rows begin with; there may be none."""
    P = len(ids_P)
    if not P:
        return Beginning(0, ())
    kept = []
    x_KND = array.embedded(ids_P.expand(array.members, -1))
    for layer in array.layers:
        assert isinstance(layer, _Layer)
        q, k, v = _projected(layer, x_KND, array.turn_TC[:P])
        kept.append((k, v))
        x_KND = layer.mixed(x_KND, _causal(layer, q, k, v))
    return Beginning(P, tuple(kept))


@torch.no_grad()
def hidden_after(
    array: ModelArray, before: Beginning, ids_BT: Tensor, place_BT: Tensor, seen_BTT: Tensor
) -> Tensor:
    """Final normalised hidden states of rows, ``(K, B·T, D)``.

    Args:
        place_BT: positions, counted from the end of the beginning.
        seen_BTT: what each position sees of its own row; all see the whole beginning.
    """
    turn_NC = array.turn_TC[(place_BT + before.length).flatten()]
    x_KND = array.embedded(ids_BT.flatten().expand(array.members, -1))
    hidden_BTT = torch.zeros(seen_BTT.shape, dtype=x_KND.dtype, device=x_KND.device)
    hidden_BTT.masked_fill_(~seen_BTT, -torch.inf)
    for index, layer in enumerate(array.layers):
        assert isinstance(layer, _Layer)
        past = before.layers[index] if before.length else None
        x_KND = layer.mixed(x_KND, _attend(layer, x_KND, turn_NC, hidden_BTT, past))
    return rms_norm(x_KND, array.norm)


def _projected(layer: _Layer, x_KND: Tensor, turn_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``(K, N, G·R, E)``, and keys and values ``(K·G, N, E)``."""
    s, (K, N, _) = layer.shape, x_KND.shape
    q, k, v = layer.turned(norm_linear(x_KND, layer.norm_1, layer.qkv), turn_NC)
    k_KGN, v_KGN = (
        p.transpose(1, 2).reshape(K * s.kv_heads, N, s.head_dim).contiguous() for p in (k, v)
    )
    return q, k_KGN, v_KGN


def _causal(layer: _Layer, q: Tensor, k_KGN: Tensor, v_KGN: Tensor) -> Tensor:
    """What the heads find where every token sees those before it, ``(K, N, D)``."""
    K, N = q.shape[:2]
    keys, values = (p.view(K, layer.shape.kv_heads, N, -1) for p in (k_KGN, v_KGN))
    y_KHNE = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, is_causal=True,
        enable_gqa=layer.shape.kv_heads != layer.shape.heads,
    )  # fmt: skip
    return y_KHNE.transpose(1, 2).reshape(K, N, -1)


def _attend(
    layer: _Layer,
    x_KND: Tensor,
    turn_NC: Tensor,
    hidden_BTT: Tensor,
    past: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """What the heads find, ``(K, N, D)``."""
    s, (B, T, _) = layer.shape, hidden_BTT.shape
    K, N, D = x_KND.shape
    G, R, E = s.kv_heads, s.heads // s.kv_heads, s.head_dim
    q, k_KGN, v_KGN = _projected(layer, x_KND, turn_NC)
    q_KGBRTE = (q * E**-0.5).view(K, B, T, G, R, E).permute(0, 3, 1, 4, 2, 5).contiguous()
    rows = q_KGBRTE.view(K * G * B, R * T, E)
    own = _product(rows, k_KGN.view(K * G * B, T, E).transpose(1, 2))
    own.view(K * G, B, R, T, T).add_(hidden_BTT[:, None])
    top = own.amax(-1, keepdim=True)
    if past is not None:
        queries = q_KGBRTE.view(K * G, N * R, E)
        older = _product(queries, past[0].transpose(1, 2))
        top = torch.maximum(top, older.amax(-1, keepdim=True).view_as(top))
        older.sub_(top.view(K * G, N * R, 1)).exp_()
    own.sub_(top).exp_()
    total = own.sum(-1, keepdim=True)
    found = _product(own, v_KGN.view(K * G * B, T, E))
    if past is not None:
        total = total + older.sum(-1, keepdim=True).view_as(total)
        found = found + _product(older, past[1]).view_as(found)
    y_KGBRTE = (found / total).view(K, G, B, R, T, E)
    return y_KGBRTE.permute(0, 2, 4, 1, 3, 5).reshape(K, N, D)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return batched(a, b) if on_cpu(a) else torch.bmm(a, b)
