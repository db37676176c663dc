"""K models of one shape as one batched model: the decoder of :mod:`proxy_trainer.models.gpt`.

Every parameter carries a leading K. Matrices are stored inputs by outputs, what is multiplied by
the same rows side by side in one matrix (queries, keys and values; gate and up), and the channels
of a head in neighbouring rotary pairs: a layout for speed, translated to and from the names and
layout of transformers' Llama and Qwen3 one member at a time.

Shapes are in suffixes: K members, B batch, T time, N = B·T rows, D width, H heads, G key-value
heads, E head width, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_trainer.loss import by_row, token_nats
from proxy_trainer.models.gpt import GPT, rope_angles
from proxy_trainer.models.kernels import (
    LONGEST_IN_BLOCKS,
    causal_attention,
    linear,
    norm_linear,
    rms_norm,
    rotate,
    swiglu,
)
from proxy_trainer.models.products import on_cpu
from proxy_trainer.models.reading import tokens_at_once
from regmix.sizes import ModelShape

TRUNK_MATRICES = ("qkv", "out", "gate_up", "down")
"""Last parts of the names of parameters that weight decay is for."""


class _Layer(nn.Module):
    """One pre-norm block of every member."""

    def __init__(self, shape: ModelShape, members: int) -> None:
        super().__init__()
        d, e = shape.d_model, shape.head_dim
        channels = (shape.heads + 2 * shape.kv_heads) * e
        self.shape = shape
        self.norm_1 = _ones(members, 1, d)
        self.qkv = _zeros(members, d, channels)
        self.out = _zeros(members, d, d)
        self.norm_2 = _ones(members, 1, d)
        self.gate_up = _zeros(members, d, 2 * shape.d_ff)
        self.down = _zeros(members, shape.d_ff, d)
        if shape.qk_norm:
            self.q_norm = _ones(members, 1, 1, e)
            self.k_norm = _ones(members, 1, 1, e)

    def forward(self, x_KND: Tensor, turn_TC: Tensor, mask: Tensor | None) -> Tensor:
        return self.mixed(x_KND, self._attend(x_KND, turn_TC, mask))

    def mixed(self, x_KND: Tensor, attended_KND: Tensor) -> Tensor:
        """What the block makes of its input and of what its heads found, ``(K, N, D)``."""
        x_KND = x_KND + linear(attended_KND, self.out)
        opened = swiglu(norm_linear(x_KND, self.norm_2, self.gate_up))
        return x_KND + linear(opened, self.down)

    def turned(self, x_KNC: Tensor, turn_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of rows of T positions, ``(K·N/T, T, heads, E)`` each."""
        s, T = self.shape, len(turn_TC)
        H, G, E = s.heads, s.kv_heads, s.head_dim
        turning, still = x_KNC.split([(H + G) * E, G * E], -1)
        if s.qk_norm:
            turning = self._normed(turning)
        turned = rotate(turning.reshape(-1, T, (H + G) * E), turn_TC).unflatten(-1, (H + G, E))
        q, k = turned.split([H, G], 2)
        return q, k, still.reshape(-1, T, G, E)

    def _attend(self, x_KND: Tensor, turn_TC: Tensor, mask: Tensor | None) -> Tensor:
        s, T = self.shape, len(turn_TC)
        H, G, E = s.heads, s.kv_heads, s.head_dim
        K, N, D = x_KND.shape
        x_KNC = norm_linear(x_KND, self.norm_1, self.qkv)
        plain = H == G and not s.qk_norm and mask is None
        if plain and on_cpu(x_KNC) and T <= LONGEST_IN_BLOCKS:
            x_BTC = x_KNC.view(K * N // T, T, -1)
            return causal_attention(x_BTC, turn_TC[:, : E // 2], H).view(K, N, D)
        q, k, v = (part.transpose(1, 2) for part in self.turned(x_KNC, turn_TC))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=H != G
        )
        return y.transpose(1, 2).reshape(K, N, D)

    def _normed(self, x_KNC: Tensor) -> Tensor:
        s = self.shape
        q, k = x_KNC.unflatten(-1, (-1, s.head_dim)).split([s.heads, s.kv_heads], -2)
        return torch.cat([rms_norm(q, self.q_norm), rms_norm(k, self.k_norm)], -2).flatten(-2)


class ModelArray(nn.Module):
    """K decoders; weights are those of :meth:`load_member`, or 0."""

    turn_TC: Tensor
    offset_K: Tensor

    def __init__(self, shape: ModelShape, vocab_size: int, members: int) -> None:
        super().__init__()
        self.shape, self.vocab_size, self.members = shape, vocab_size, members
        self.embed = _zeros(members, vocab_size, shape.d_model)
        self.layers = nn.ModuleList(_Layer(shape, members) for _ in range(shape.layers))
        self.norm = _ones(members, 1, shape.d_model)
        if not shape.tied_embeddings:
            self.head = _zeros(members, shape.d_model, vocab_size)
        angle_TE = rope_angles(shape.context, shape.head_dim)
        turn_TE = torch.polar(torch.ones_like(angle_TE), angle_TE)
        self.register_buffer(
            "turn_TC", turn_TE.repeat(1, shape.heads + shape.kv_heads), persistent=False
        )
        self.register_buffer("offset_K", torch.arange(members) * vocab_size, persistent=False)

    @classmethod
    def initialised(cls, shape: ModelShape, vocab_size: int, seeds: Sequence[int]) -> ModelArray:
        """One member a seed, with the initial weights that the seed gives a single model."""
        array = cls(shape, vocab_size, len(seeds))
        single = GPT(shape, vocab_size)
        for member, seed in enumerate(seeds):
            single.initialise(seed)
            array.load_member(member, single.state_dict())
        return array

    @property
    def unembed_KDV(self) -> Tensor:  # noqa: N802
        """What final hidden states are multiplied by to give logits."""
        return self.embed.transpose(1, 2) if self.shape.tied_embeddings else self.head

    def hidden(self, ids_KBT: Tensor, mask: Tensor | None = None) -> Tensor:
        """Final normalised hidden states, ``(K, B·T, D)``.

        Args:
            mask: positions that may be attended to, ``(K·B, 1, T, T)``; causal if not given.
        """
        T = ids_KBT.shape[-1]
        x_KND = self.embedded(ids_KBT.flatten(1))
        for layer in self.layers:
            x_KND = layer(x_KND, self.turn_TC[:T], mask)
        return rms_norm(x_KND, self.norm)

    def embedded(self, ids_KN: Tensor) -> Tensor:
        """Every member's rows of its own embedding, ``(K, N, D)``."""
        return F.embedding(ids_KN + self.offset_K[:, None], self.embed.flatten(0, 1))

    @property
    def tokens_at_once(self) -> int:
        """What :class:`proxy_trainer.evals.bpb.Measured` asks for."""
        return tokens_at_once(self.embed.device)

    @torch.no_grad()
    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """What :class:`proxy_trainer.evals.bpb.Measured` asks for."""
        device, members = self.embed.device, self.members
        hidden_KND = self.hidden(ids_BT.to(device).expand(members, -1, -1))
        target_KN = target_N.to(device).expand(members, -1)
        kept_KND = hidden_KND[:, keep_BT.flatten().to(device)]
        return by_row(token_nats(kept_KND, self.unembed_KDV, target_KN), keep_BT.to(device))

    def load_member(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Set one member's weights from a state dict in transformers' names."""
        with torch.no_grad():
            for name, value in self.arranged(state).items():
                self.get_parameter(name)[member].copy_(value)

    def member(self, member: int) -> dict[str, Tensor]:
        """One member's weights as a state dict in transformers' names; copies."""
        return self.named({name: p.detach()[member] for name, p in self.named_parameters()})

    def named(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """A table like one member's weights in transformers' names and layout; copies."""
        return _to_llama(own, self.shape)

    def arranged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of :meth:`named`."""
        found = _from_llama(state, self.shape)
        return {name: v.view_as(self.get_parameter(name)[0]) for name, v in found.items()}


def _zeros(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size))


def _ones(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(size))


def _neighbours(width: int) -> Tensor:
    """Where in Llama's layout (halves of a head) each channel of neighbouring pairs comes from."""
    half = width // 2
    return torch.arange(width) // 2 + torch.arange(width) % 2 * half


def _paired(rows_CD: Tensor, width: int) -> Tensor:
    found: Tensor = rows_CD.unflatten(0, (-1, width))[:, _neighbours(width)].flatten(0, 1)
    return found


def _halved(rows_CD: Tensor, width: int) -> Tensor:
    found: Tensor = rows_CD.unflatten(0, (-1, width))[:, _neighbours(width).argsort()].flatten(0, 1)
    return found


def _from_llama(state: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    e = shape.head_dim
    found = {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
    if not shape.tied_embeddings:
        found["head"] = state["lm_head.weight"].t()
    for i in range(shape.layers):
        own = _part(state, f"model.layers.{i}.")
        q, k, v = (own[f"self_attn.{x}_proj.weight"] for x in "qkv")
        layer = {
            "norm_1": own["input_layernorm.weight"],
            "qkv": torch.cat([_paired(q, e), _paired(k, e), v]).t(),
            "out": own["self_attn.o_proj.weight"].t(),
            "norm_2": own["post_attention_layernorm.weight"],
            "gate_up": torch.cat([own["mlp.gate_proj.weight"], own["mlp.up_proj.weight"]]).t(),
            "down": own["mlp.down_proj.weight"].t(),
        }
        if shape.qk_norm:
            for x in "qk":
                layer[f"{x}_norm"] = _paired(own[f"self_attn.{x}_norm.weight"], e)
        found |= {f"layers.{i}.{name}": value for name, value in layer.items()}
    return found


def _to_llama(own: dict[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    e = shape.head_dim
    sizes = [shape.heads * e, shape.kv_heads * e, shape.kv_heads * e]
    found = {"model.embed_tokens.weight": own["embed"]}
    for i in range(shape.layers):
        layer = _part(own, f"layers.{i}.")
        q, k, v = layer["qkv"].t().split(sizes)
        gate, up = layer["gate_up"].t().chunk(2)
        named = {
            "input_layernorm": layer["norm_1"].flatten(),
            "self_attn.q_proj": _halved(q, e),
            "self_attn.k_proj": _halved(k, e),
            "self_attn.v_proj": v,
            "self_attn.o_proj": layer["out"].t(),
            "post_attention_layernorm": layer["norm_2"].flatten(),
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer["down"].t(),
        }
        if shape.qk_norm:
            for x in "qk":
                named[f"self_attn.{x}_norm"] = _halved(layer[f"{x}_norm"].flatten(), e)
        found |= {f"model.layers.{i}.{name}.weight": value for name, value in named.items()}
    found["model.norm.weight"] = own["norm"].flatten()
    head = own["embed"] if shape.tied_embeddings else own["head"].t()
    found["lm_head.weight"] = head
    return {n: v.clone(memory_format=torch.contiguous_format) for n, v in found.items()}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    # By name first: of a table on disk only these are read.
    return {n.removeprefix(prefix): state[n] for n in state if n.startswith(prefix)}
