"""One dial: a model's size sets width, depth, heads, learning rate and tokens.

Sizes are named by their non-embedding parameters. Everything here is plain arithmetic, so that
a swarm can be planned, hashed and priced without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from regmix.config import ModelConfig, TrainConfig
from regmix.errors import UserError, unknown_name

# name: (d_model, layers, heads, context)
_SIZES: dict[str, tuple[int, int, int, int]] = {
    "50k": (48, 2, 3, 128),
    "100k": (64, 2, 4, 128),
    "300k": (96, 3, 4, 128),
    "400k": (96, 4, 4, 128),
    "800k": (128, 4, 4, 128),
    "1m": (160, 4, 4, 256),
    "4m": (256, 5, 4, 512),
    "15m": (384, 8, 6, 1024),
    "30m": (512, 10, 8, 1024),
    "60m": (640, 12, 10, 2048),
    "150m": (1024, 12, 16, 2048),
    "400m": (1280, 20, 20, 2048),
    "1b": (2048, 20, 16, 4096),
    "3b": (2560, 36, 20, 4096),
    "7b": (4096, 34, 32, 4096),
}
SIZES = tuple(_SIZES)

_RESOLVED = ("eval_points", "eval_tokens", "repetition", "lr_mode")
"""Settings that a plan holds in another form."""
TOKENS_PER_PARAMETER = 20
"""Default horizon (Hoffmann et al. 2022, arXiv 2203.15556)."""
TINY = 1 / 30
"""Of the rule's learning rate: our factor for the small rates that arXiv 2512.24503 is about."""
BATCH_SEQUENCES = 8
"""Default sequences a step for small models; a batch grows with the horizon beyond that."""


@dataclass(frozen=True)
class ModelShape:
    """A native decoder's dimensions; every field enters the run's identity."""

    d_model: int
    layers: int
    heads: int
    kv_heads: int
    d_ff: int
    context: int
    qk_norm: bool
    tied_embeddings: bool

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.heads

    @property
    def parameters(self) -> int:
        """Non-embedding parameters: attention, MLP and norms."""
        d, kv = self.d_model, self.kv_heads * self.head_dim
        attention = 2 * d * d + 2 * d * kv + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (attention + 3 * d * self.d_ff + 2 * d) + d

    def flops_per_token(self, vocab_size: int) -> float:
        """Training FLOPs a token: 6 per weight of every matmul, head included, plus attention.

        Kaplan et al. 2020 (arXiv 2001.08361), table 1; causal attention is counted at half of
        the full context, and the embedding look-up not at all.
        """
        weights = self.parameters + vocab_size * self.d_model
        return 6.0 * weights + 6.0 * self.layers * self.context * self.d_model


class Sized(Protocol):
    """What settings follow from: any model's."""

    @property
    def parameters(self) -> int:
        """Non-embedding parameters."""

    @property
    def context(self) -> int:
        """Tokens a sequence."""


@dataclass(frozen=True)
class TrainPlan:
    """Training settings with nothing left open; every field enters the run's identity."""

    steps: int
    batch: int
    """Sequences a step."""
    lr: float
    min_lr_ratio: float
    schedule: str
    warmup_share: float
    decay_share: float
    weight_decay: float
    beta1: float
    beta2: float
    clip: float
    z_loss: float
    eval_bytes: int
    eval_steps: tuple[int, ...]
    """Steps after which the run is evaluated; the last is its end."""
    skip_sigma: float
    data_share: float
    """Share of each domain's training text that the run may see."""
    document_mask: bool


def shape(config: ModelConfig) -> ModelShape:
    """The dimensions that a model config stands for.

    Raises:
        UserError: unknown size, or dimensions that do not divide.
    """
    if config.size not in _SIZES:
        raise unknown_name("size", config.size, SIZES, "model.size")
    d_model, layers, heads, context = _SIZES[config.size]
    d_model = config.d_model or d_model
    heads = config.heads or heads
    kv_heads = config.kv_heads or heads
    if d_model % heads or (d_model // heads) % 2:
        raise UserError(f"model: d_model {d_model} must be an even multiple of heads {heads}")
    if heads % kv_heads:
        raise UserError(f"model: heads {heads} must be a multiple of kv_heads {kv_heads}")
    return ModelShape(
        d_model=d_model,
        layers=config.layers or layers,
        heads=heads,
        kv_heads=kv_heads,
        # 8/3 keeps a gated MLP at the parameters of a plain 4x one (Shazeer 2020).
        d_ff=config.d_ff or 8 * round(d_model * 8 / 3 / 8),
        context=config.context or context,
        qk_norm=config.qk_norm,
        tied_embeddings=config.tied_embeddings,
    )


def plan(config: TrainConfig, model: Sized) -> TrainPlan:
    """The training settings that follow from a config and a model.

    Tokens are rounded down to whole batches: a run trains ``steps * batch * context`` tokens.

    Raises:
        UserError: fewer tokens than one batch.
    """
    tokens = config.tokens or TOKENS_PER_PARAMETER * model.parameters
    default_batch = max(BATCH_SEQUENCES * 128, 2 ** round_log2(tokens / 1500))
    batch = max(1, (config.batch_tokens or default_batch) // model.context)
    steps = tokens // (batch * model.context)
    if steps < 1:
        raise UserError(
            f"train.tokens: {tokens:,} is less than one batch of {batch * model.context:,} tokens"
        )
    settings = config.model_dump(exclude={"tokens", "batch_tokens", "lr", *_RESOLVED})
    return TrainPlan(
        steps=steps,
        batch=batch,
        lr=config.lr or default_lr(model) * (TINY if config.lr_mode == "tiny" else 1),
        eval_steps=_eval_steps(config, steps, batch * model.context),
        data_share=1.0,
        **settings,
    )


def _eval_steps(config: TrainConfig, steps: int, tokens_per_step: int) -> tuple[int, ...]:
    """Evenly spaced, or the steps at whose end the given tokens have been seen."""
    if config.eval_points > steps:
        raise UserError(f"train.eval_points: {config.eval_points} for a run of {steps} steps")
    if not config.eval_tokens:
        return tuple(round(steps * (i + 1) / config.eval_points) for i in range(config.eval_points))
    last = max(config.eval_tokens)
    if last > steps * tokens_per_step:
        raise UserError(
            f"train.eval_tokens: {last:,} for a run of {steps * tokens_per_step:,} tokens"
        )
    asked = {-(-tokens // tokens_per_step) for tokens in config.eval_tokens}
    return tuple(sorted(asked | {steps}))


def round_log2(value: float) -> int:
    """The power of two nearest to a value, as its exponent; at least 0."""
    import math

    return max(0, round(math.log2(max(value, 1.0))))


def default_lr(model: Sized) -> float:
    """Peak learning rate by size: 0.0047 · (N / 108M)^(-1/3) / 2, at most 4e-3.

    The rule is OLMo-core's model ladder; the cap is where our smallest proxies were most
    repeatable (docs/DECISIONS.md).
    """
    return float(min(4e-3, 0.0047 * (model.parameters / 108e6) ** (-1 / 3) / 2))
