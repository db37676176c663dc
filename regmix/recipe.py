"""A recipe for ``regmix run``: one model through stages of pretraining, mid-training and SFT."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from regmix.chat import ChatData, Conversations
from regmix.config.base import AsTuple, Name, Names, Positive, PositiveFloat, Strict
from regmix.config.training import ModelConfig, TrainConfig

Kind = Literal["pretrain", "midtrain", "sft"]


class MicroAnneal(Strict):
    """Judge one source cheaply: part of the tokens from it, the rest from the stage's mixture.

    Beside every run there is one on the mixture alone, to compare with.
    """

    source: str
    """A domain of the study."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Sweep(Strict):
    """Values to try; every combination is a run."""

    lr: Annotated[tuple[PositiveFloat, ...], AsTuple] = ()
    seed: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AsTuple] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in ("lr", "seed"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"sweep.{name} names a value twice")
        return self


class ParallelConfig(Strict):
    """How a run is spread; none of it changes what it comes to."""

    processes: Positive = 1
    """Of one node, each with a device of its own; more than one shards the model (FSDP2)."""
    nodes: Positive = 1
    hybrid: bool = False
    """Shard inside nodes and replicate over them (HSDP)."""
    recompute: bool = False
    """Compute activations again for the gradients instead of keeping them."""
    compiled: bool = False
    rows: Positive | None = None
    """Sequences that a process computes at once; the gradients of the others are added."""

    @model_validator(mode="after")
    def _hybrid_over_nodes(self) -> Self:
        if self.hybrid and self.nodes == 1:
            raise ValueError("parallel.hybrid replicates over nodes, and there is 1")
        return self


class StartRun(Strict):
    """A run of the study to start from: its model, or one of its checkpoints."""

    run: Name
    """Its id."""
    step: Positive | None = None
    """Steps after which the checkpoint was written; empty: the finished model."""


class StageConfig(Strict):
    """One stage of a recipe."""

    name: Name
    kind: Kind
    mixture: str | None = None
    """Mixture YAML of pretraining and mid-training, relative to the recipe."""
    data: ChatData | None = None
    """Conversations of SFT."""
    start: str | StartRun | None = None
    """``scratch``, ``previous`` (the stage before), a Hugging Face folder relative to the recipe,
    or a run of the study; empty: scratch for the first stage, previous for the others."""
    optimiser: Literal["keep", "fresh"] | None = None
    """Whether moments go on from the stage or the run before; empty: in mid-training only."""
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] | None = None
    """Of data order, and of initial weights at scratch; empty: the recipe's plus the stage's place
    in it, or the next one by which nothing that is gone on from has read: no stage reads text in
    another's order."""
    microanneal: MicroAnneal | None = None
    sweep: Sweep = Sweep()
    orders: Positive = 1
    """Runs that differ in their data order alone; what comes of them is averaged."""
    keep: Literal["best", "merge"] = "best"
    """Of a sweep: the run with the best ``metric``, or the average of all."""
    metric: str | None = None
    """What runs are compared by, lower is better; empty: the mean bits per byte over domains, after
    SFT over the conversations that were held out."""
    parallel: ParallelConfig | None = None
    """How its runs are spread; empty: as the recipe says."""
    evaluate: Names | None = None
    """Names of the study's tasks that its models are asked; empty: all of them."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        sft = self.kind == "sft"
        wrong = {
            "mixture": sft and self.mixture is not None,
            "microanneal": self.kind != "midtrain" and self.microanneal is not None,
            "data": not sft and self.data is not None,
        }
        for key, refused in wrong.items():
            if refused:
                raise ValueError(f"stage '{self.name}': {key} does not go with this {self.kind}")
        averaged = [
            key
            for key, given in (("orders", self.orders > 1), ("keep: merge", self.keep == "merge"))
            if given
        ]
        differing = {
            "sweep.lr": bool(self.sweep.lr) and self.orders > 1,
            "sweep.seed": bool(self.sweep.seed) and self.orders > 1,
            "microanneal": self.microanneal is not None and bool(averaged),
        }
        for key, refused in differing.items():
            if refused:
                raise ValueError(
                    f"stage '{self.name}': {averaged[0]} averages all runs of the stage, and "
                    f"{key} makes others than those; give them stages of their own"
                )
        missing = "data" if sft else "mixture"
        if getattr(self, missing) is None:
            raise ValueError(f"stage '{self.name}': {self.kind} needs {missing}")
        return self

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        """Refuse what another setting of the stage would overrule in silence."""
        for key, one, other in (
            ("sweep.lr", bool(self.sweep.lr), self.train.lr is not None and "train.lr"),
            ("sweep.seed", bool(self.sweep.seed), self.seed is not None and "seed"),
        ):
            if one and other:
                raise ValueError(f"stage '{self.name}': {key} and {other}: give one of them")
        if self.train.lr_mode != "rule" and self.kind != "pretrain":
            raise ValueError(
                f"stage '{self.name}': train.lr_mode is for models from scratch; {self.kind} takes "
                "its learning rate from train.lr, sweep.lr or what its kind begins with"
            )
        return self


class RecipeConfig(Strict):
    """One model through its stages."""

    kind: Literal["recipe"] = "recipe"
    name: Name
    study: str
    """Study folder whose token shards, tokenizer and validation text are used; relative to it."""
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig | None = None
    """A native size; not given where ``transformers`` is, or where the first stage starts from a
    folder."""
    transformers: str | None = None
    """A ``config.json`` of a family that is supported, relative to the recipe."""
    context: Positive | None = None
    """Tokens a sequence, where the model is transformers'; empty: all its positions."""
    max_epochs: PositiveFloat | None = None
    """Refuse to start if a source would be repeated more often over all stages."""
    parallel: ParallelConfig = ParallelConfig()
    """Of all stages that do not say otherwise."""
    held_out: Conversations | None = None
    """Conversations that are only measured: bits per byte of the assistant's turns."""
    stages: Annotated[tuple[StageConfig, ...], AsTuple, Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [s.name for s in self.stages]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"stage '{name}' is named twice")
        if self.model is not None and self.transformers is not None:
            raise ValueError("give 'model' or 'transformers', not both")
        if self.context is not None and self.model is not None:
            raise ValueError("context is for models of transformers; here it is `model.context`")
        for stage in self.stages:
            if stage.train.repetition != "none":
                raise ValueError(
                    f"stage '{stage.name}': train.repetition is for proxies; a stage sees its text "
                    "as often as its tokens say"
                )
        return self
