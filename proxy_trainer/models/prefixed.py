"""A model array that reads many rows after one beginning, which it computes once.

The beginning's keys and values are kept by layer. Rows attend to it and to themselves; both parts
are normalised by one softmax, the one over all keys that a row written out whole would have.

Shapes are in suffixes: K members, B rows, T positions, N = B·T, P positions of the beginning,
G key-value heads, R heads a key-value head, E head width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
    place_1T = torch.arange(P, device=ids_P.device)[None]
    seen_1TT = (place_1T[0][:, None] >= place_1T[0])[None]
    kept: list[tuple[Tensor, Tensor]] = []
    _through(array, Beginning(0, ()), ids_P[None], place_1T, seen_1TT, kept)
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
    return _through(array, before, ids_BT, place_BT + before.length, seen_BTT, None)


def _through(
    array: ModelArray,
    before: Beginning,
    ids_BT: Tensor,
    place_BT: Tensor,
    seen_BTT: Tensor,
    kept: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    turn_NC = array.turn_TC[place_BT.flatten()]
    x_KND = array.embedded(ids_BT.flatten().expand(array.members, -1))
    hidden_BTT = torch.zeros(seen_BTT.shape, dtype=x_KND.dtype, device=x_KND.device)
    hidden_BTT.masked_fill_(~seen_BTT, -torch.inf)
    for index, layer in enumerate(array.layers):
        assert isinstance(layer, _Layer)
        past = before.layers[index] if before.length else None
        attended, own = _attend(layer, x_KND, turn_NC, hidden_BTT, past)
        if kept is not None:
            kept.append(own)
        x_KND = layer.mixed(x_KND, attended)
    return rms_norm(x_KND, array.norm)


def _attend(
    layer: _Layer,
    x_KND: Tensor,
    turn_NC: Tensor,
    hidden_BTT: Tensor,
    past: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What the heads find, ``(K, N, D)``, and the rows' own keys and values, ``(K·G, N, E)``."""
    s, (B, T, _) = layer.shape, hidden_BTT.shape
    K, N, D = x_KND.shape
    G, R, E = s.kv_heads, s.heads // s.kv_heads, s.head_dim
    q, k, v = layer.turned(norm_linear(x_KND, layer.norm_1, layer.qkv), turn_NC)
    q_KGBRTE = (q * E**-0.5).view(K, B, T, G, R, E).permute(0, 3, 1, 4, 2, 5).contiguous()
    k_KGN, v_KGN = (p.transpose(1, 2).reshape(K * G, N, E).contiguous() for p in (k, v))
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
    return y_KGBRTE.permute(0, 2, 4, 1, 3, 5).reshape(K, N, D), (k_KGN, v_KGN)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return batched(a, b) if on_cpu(a) else torch.bmm(a, b)
