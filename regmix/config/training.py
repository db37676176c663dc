"""What a model is, and how it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from regmix.config.base import AsTuple, Positive, PositiveFloat, Share, Strict


class ModelConfig(Strict):
    """A native decoder: one dial, and what follows from it unless given."""

    size: str = "1m"
    d_model: Positive | None = None
    layers: Positive | None = None
    heads: Positive | None = None
    kv_heads: Positive | None = None
    d_ff: Positive | None = None
    context: Positive | None = None
    qk_norm: bool = False
    tied_embeddings: bool = False


class TrainConfig(Strict):
    """How a model is trained; what is left out follows from the model's size."""

    tokens: Positive | None = None
    batch_tokens: Positive | None = None
    lr: PositiveFloat | None = None
    """Peak learning rate; empty: by the model's size."""
    lr_mode: Literal["rule", "tiny"] = "rule"
    """Where ``lr`` is empty. ``tiny``: a thirtieth of the rule's, since small models rank data more
    as large, tuned ones do at rates far below the best (arXiv 2512.24503; the factor is ours)."""
    min_lr_ratio: Share = 0.1
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_share: Share = 0.05
    decay_share: Share = 0.2
    """Share of the steps in which WSD decays."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    clip: PositiveFloat = 1.0
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    eval_bytes: Positive = 60_000
    """Validation text scored per domain: documents in a fixed order, the last one cut."""
    eval_points: Annotated[int, Field(ge=1)] = 1
    """Evaluations over the run, evenly spaced in tokens; the last is at its end."""
    eval_tokens: Annotated[tuple[Positive, ...], AsTuple] = ()
    """Instead: evaluate once these many tokens were trained, and at the end."""
    skip_sigma: Annotated[float, Field(ge=0)] = 0.0
    """Leave out a step whose loss or gradient norm is this many standard deviations above the last
    128 steps' mean; 0: never."""
    document_mask: bool = False
    """Whether a token attends to its own document alone, not to those before it in its block."""
    repetition: Literal["none", "match"] = "none"
    """``match``: a run sees as small a share of each domain as its tokens are of the full run's
    (``space.budget_tokens``), so that it repeats text as often (arXiv 2606.07597)."""


class RunConfig(Strict):
    """A model and how it is trained."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()


class ProxyConfig(RunConfig):
    """A model that a mixture is chosen by."""

    keep_model: bool = False
    """Whether finished models are kept, to be asked tasks that are thought of later. A part of the
    runs' identity: said after they were trained, it has them trained again."""


class LadderConfig(ProxyConfig):
    """A size between proxy and target, at which some mixtures of the swarm are trained again."""

    mixtures: Annotated[int, Field(ge=4)] = 12
    """Natural and uniform among them, the others as far apart as the swarm has them."""
