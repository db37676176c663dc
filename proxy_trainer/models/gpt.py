"""The native decoder: RMSNorm, RoPE, SwiGLU, optional QK-norm and grouped-query attention.

Parameters carry the names of transformers' Llama (with QK-norm: Qwen3), so that a state dict is
that model's state dict. Tensor shapes are in suffixes: B batch, T time, D model width, H heads,
K key-value heads, E head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxy_trainer.models.decoder import Decoder
from regmix.sizes import ModelShape

ROPE_THETA = 10_000.0
NORM_EPS = 1e-5
INIT_STD = 0.02


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        y: Tensor = F.rms_norm(x, self.weight.shape, self.weight, NORM_EPS)
        return y


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = shape.heads, shape.kv_heads, shape.head_dim
        kv = shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.d_model, shape.d_model, bias=False)
        self.k_proj = nn.Linear(shape.d_model, kv, bias=False)
        self.v_proj = nn.Linear(shape.d_model, kv, bias=False)
        self.o_proj = nn.Linear(shape.d_model, shape.d_model, bias=False)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim)
            self.k_norm = RMSNorm(shape.head_dim)
        self.qk_norm = shape.qk_norm

    def forward(
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Mix positions; output ``(B, T, D)``."""
        B, T, _ = x_BTD.shape
        q_BTHE = self.q_proj(x_BTD).view(B, T, self.heads, self.width)
        k_BTKE = self.k_proj(x_BTD).view(B, T, self.kv_heads, self.width)
        v_BTKE = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.width)
        if self.qk_norm:
            q_BTHE, k_BTKE = self.q_norm(q_BTHE), self.k_norm(k_BTKE)
        q_BHTE = rotate(q_BTHE.transpose(1, 2), cos_TE, sin_TE)
        k_BKTE = rotate(k_BTKE.transpose(1, 2), cos_TE, sin_TE)
        y_BHTE = F.scaled_dot_product_attention(
            q_BHTE,
            k_BKTE,
            v_BTKE.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.kv_heads != self.heads,
        )
        out_BTD: Tensor = self.o_proj(y_BHTE.transpose(1, 2).reshape(B, T, -1))
        return out_BTD


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.up_proj = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.down_proj = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Position-wise; shape is kept."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.d_model)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.d_model)
        self.mlp = MLP(shape)

    def forward(
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """One block; output ``(B, T, D)``."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE, mask)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD


class Trunk(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, shape: ModelShape, vocab_size: int) -> None:
        super().__init__()
        # Not drawn here, for which torch would load its compiler if there is no memory: a second.
        # Nor left as the memory was found, which may hold anything, infinite values too.
        weight_VD = torch.zeros(vocab_size, shape.d_model)
        self.embed_tokens = nn.Embedding(vocab_size, shape.d_model, _weight=weight_VD)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.d_model)


class GPT(Decoder):
    """Decoder-only language model."""

    shape: ModelShape
    model: Trunk
    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, shape: ModelShape, vocab_size: int) -> None:
        super().__init__()
        self.shape, self.vocab_size = shape, vocab_size
        self.model = Trunk(shape, vocab_size)
        self.lm_head = nn.Linear(shape.d_model, vocab_size, bias=False)
        if shape.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        cos_TE, sin_TE = rope_table(shape.context, shape.head_dim)
        self.register_buffer("cos_TE", cos_TE, persistent=False)
        self.register_buffer("sin_TE", sin_TE, persistent=False)

    def hidden(
        self, ids_BT: Tensor, mask: Tensor | None = None, place_BT: Tensor | None = None
    ) -> Tensor:
        """Final normalised hidden states; of :meth:`Decoder.hidden`."""
        T = ids_BT.shape[1]
        cos, sin = self.cos_TE[:T], self.sin_TE[:T]
        if place_BT is not None:  # the same in all heads
            cos, sin = self.cos_TE[place_BT][:, None], self.sin_TE[place_BT][:, None]
        x_BTD = self.model.embed_tokens(ids_BT)
        for block in self.model.layers:
            x_BTD = block(x_BTD, cos, sin, mask)
        normed: Tensor = self.model.norm(x_BTD)
        return normed

    def draw_(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """N(0, 0.02) truncated at 3 σ for every matrix; norms 1."""
        if parameter.dim() >= 2:
            nn.init.trunc_normal_(
                parameter, std=INIT_STD, a=-3 * INIT_STD, b=3 * INIT_STD, generator=generator
            )
        else:
            nn.init.ones_(parameter)

    def place_(self) -> None:
        """Rotary cosines and sines."""
        self.cos_TE, self.sin_TE = rope_table(self.shape.context, self.shape.head_dim)


def rope_table(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each ``(length, width)``, halves repeated (RoPE, arXiv 2104.09864)."""
    angle_TE = rope_angles(length, width).repeat(1, 2)
    return angle_TE.cos(), angle_TE.sin()


def rope_angles(length: int, width: int) -> Tensor:
    """By how much each pair of channels is turned at each position, ``(length, width / 2)``.

    On the CPU, also for a model without memory.
    """
    with torch.device("cpu"):
        inverse_E = ROPE_THETA ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
        return torch.outer(torch.arange(length, dtype=torch.float32), inverse_E)


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotate pairs (i, i + E/2), the layout of transformers' Llama."""
    left, right = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat([-right, left], dim=-1) * sin_TE
