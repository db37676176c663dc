"""``study.yaml``: strict, typed, frozen. What it does not know, it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from regmix.errors import UserError, unknown_name
from regmix.layout import StudyLayout
from regmix.strict import load, place
from regmix.yaml_io import KeyPath

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
_PATTERN = re.compile(r"[*?\[]")
_NAME = re.compile(r"[^\s/\\.][^\s\\]{0,199}")
TEXT_METRICS = "bpb/"
"""Prefix of what every run on text measures: bits per byte on each of the study's domains."""


def _valid_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "a name has 1 to 200 characters, no spaces or backslashes, and starts with neither "
            "'.' nor '/'"
        )
    return value


Name = Annotated[str, AfterValidator(_valid_name)]


class Strict(BaseModel):
    """Frozen, and refuses keys it does not know and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Source(Strict):
    """Where documents come from: files on this machine, or a dataset on the hub."""

    path: str | None = None
    """File, folder or glob; relative paths start at the study folder."""
    hub: str | None = None
    """Anything `datasets.load_dataset` takes as its first argument."""
    hub_args: dict[str, Any] = {}
    """Further arguments to `load_dataset`: name, data_dir, data_files, revision. A dataset that
    changes under the same arguments is noticed by its local files alone; pin others by revision."""
    split: str = "train"
    """Split of the hub dataset."""
    text_field: str = "text"

    @model_validator(mode="after")
    def _oneplace(self) -> Source:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either 'path' or 'hub'")
        return self


class Domain(Strict):
    """A named set of documents that is weighted as one."""

    name: Name
    train: tuple[Source, ...] = ()
    valid: tuple[Source, ...] = ()
    """Empty: ``valid_share`` of the training documents are set apart by content hash."""
    valid_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    tags: tuple[str, ...] = ()
    group: str | None = None
    """What it belongs to: groups can be bounded as one."""
    tokens: Positive | None = None
    """Training tokens there are of it; only where the data is not built here."""

    @field_validator("train", "valid", mode="before")
    @classmethod
    def _sources(cls, value: object) -> object:
        """A path, a source, or a list of either."""
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple({"path": item} if isinstance(item, str) else item for item in items)

    @field_validator("tags", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class TokenizerConfig(Strict):
    """Train a tokenizer on the study's text, or use one."""

    path: str | None = None
    """A `tokenizer.json`; empty: a byte-level BPE is trained."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    train_bytes: Positive = 2_000_000
    """Training text taken from each domain to train it, whole documents. Despite its name it is
    counted in characters: counting bytes would change the tokenizers of existing corpora."""


class DataConfig(Strict):
    """How text becomes token shards."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    max_missing_text: Share = 0.01
    """Largest share of documents without a text that is only counted; above it, an error."""


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


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


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
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
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
    eval_tokens: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)] = ()
    """Instead: evaluate once these many tokens were trained, and at the end."""
    skip_sigma: Annotated[float, Field(ge=0)] = 0.0
    """Leave out a step whose loss or gradient norm is this many standard deviations above the last
    128 steps' mean; 0: never."""
    document_mask: bool = False
    """Whether a token attends to its own document alone, not to those before it in its block."""
    repetition: Literal["none", "match"] = "none"
    """``match``: a run sees as small a share of each domain as its tokens are of the full run's
    (``space.budget_tokens``), so that it repeats text as often."""


class RunConfig(Strict):
    """A model and how it is trained."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()


class SwarmConfig(Strict):
    """Which mixtures the proxies are trained on."""

    runs: Positive = 48
    """Mixtures to fit, uniform among them; natural, its replicates and single domains on top."""
    temperature: PositiveFloat = 0.5
    """The Dirichlet's centre is the natural mixture to this power, normalised."""
    concentration: tuple[PositiveFloat, PositiveFloat] = (0.5, 5.0)
    """Range of the Dirichlet's total concentration divided by the number of domains."""
    replicates: Annotated[int, Field(ge=1)] = 3
    """Runs of the natural mixture, each with another seed: the noise floor."""
    baselines: bool = True
    """Train uniform and every domain alone too, as far as the space allows them."""

    @field_validator("concentration", mode="before")
    @classmethod
    def _pair(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _ordered(self) -> SwarmConfig:
        if self.concentration[0] > self.concentration[1]:
            raise ValueError("concentration: the first value must not exceed the second")
        return self


def _ordered(bound: tuple[float, float]) -> tuple[float, float]:
    if bound[0] > bound[1]:
        raise ValueError(f"the lower bound {bound[0]:g} exceeds the upper bound {bound[1]:g}")
    return bound


Bound = Annotated[tuple[Share, Share], AfterValidator(_ordered)]


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class GroupBound(Strict):
    """Bounds on the sum of several weights."""

    domains: Names = ()
    """Names or patterns, such as ``web/*``."""
    group: str | None = None
    """Instead: all domains of this ``group``."""
    tag: str | None = None
    """Instead: all domains with this tag."""
    lower: Share = 0.0
    upper: Share = 1.0

    @model_validator(mode="after")
    def _checked(self) -> GroupBound:
        if bool(self.domains) + (self.group is not None) + (self.tag is not None) != 1:
            raise ValueError("give one of 'domains', 'group' and 'tag'")
        _ordered((self.lower, self.upper))
        return self


class RatioBound(Strict):
    """Bounds on one sum of weights over another."""

    of: Annotated[Names, Field(min_length=1)]
    to: Annotated[Names, Field(min_length=1)]
    lower: Annotated[float, Field(ge=0)] = 0.0
    upper: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _checked(self) -> RatioBound:
        if self.upper is not None:
            _ordered((self.lower, self.upper))
        elif self.lower == 0:
            raise ValueError("give 'lower' or 'upper'")
        return self


class SpaceConfig(Strict):
    """The allowed mixtures."""

    bounds: dict[str, Bound] = {}
    """Per domain: [lower, upper]."""
    groups: dict[str, GroupBound] = {}
    ratios: dict[str, RatioBound] = {}
    pinned: dict[str, dict[str, PositiveFloat]] = {}
    """By a name of your own: domains that keep these shares relative to each other."""
    max_epochs: PositiveFloat | None = None
    """Repetition cap: weight · budget_tokens ≤ max_epochs · available tokens."""
    budget_tokens: Positive | None = None
    """Training tokens of the full run; needed by ``max_epochs``."""

    @field_validator("bounds", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _checked(self) -> SpaceConfig:
        if self.max_epochs is not None and self.budget_tokens is None:
            raise ValueError("max_epochs needs budget_tokens")
        for name, shares in self.pinned.items():
            if len(shares) < 2:
                raise ValueError(f"pinned.{name}: shares of two or more domains are needed")
        pinned = [d for shares in self.pinned.values() for d in shares]
        for domain in pinned:
            if pinned.count(domain) > 1:
                raise ValueError(f"pinned: domain '{domain}' stands in two sets; join them")
        return self


class LimitsConfig(Strict):
    """No metric may be worse than at a reference mixture by more than a share of its value."""

    reference: str = "natural"
    """natural, uniform, or a mixture file's name in ``mixes/``."""
    worse: float | None = None
    """Share allowed for every metric of the objective; 0: none may be worse."""
    metrics: dict[str, float] = {}
    """Shares for single metrics; they go before ``worse``."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """Probability with which each limit is to hold, by the surrogate."""


class ObjectiveConfig(Strict):
    """What is optimised; lower-is-better metrics as they are, the others turned."""

    kind: Literal["weighted", "relative", "worst"] = "weighted"
    """Weighted mean; weighted mean of relative losses against ``reference``; the worst of them."""
    weights: dict[str, PositiveFloat] = {}
    """Metric to weight; empty: every bpb/<domain>, or every metric if there is none."""
    directions: dict[str, Literal["lower", "higher"]] = {}
    """Only for metrics whose name does not tell."""
    snr_weights: bool = False
    """Multiply each weight by the share of the metric's variance that is not seed noise."""
    reference: str = "natural"
    """natural, uniform, or a mixture file's name in ``mixes/``; for relative and worst."""
    limits: LimitsConfig = LimitsConfig()
    groups: dict[str, Annotated[Names, Field(min_length=1)]] = {}
    """Metrics by a name of your own, for `regmix pareto`: names or patterns, such as ``mmlu/*``."""

    @field_validator("groups")
    @classmethod
    def _plain(cls, value: dict[str, Names]) -> dict[str, Names]:
        for name in value:
            if not name or _PATTERN.search(name) or "," in name:
                raise ValueError(f"group '{name}': a name holds no comma, '*', '?' or '['")
        return value


class FitConfig(Strict):
    """How the surrogate is fitted and solved."""

    regressor: str = "auto"
    folds: Annotated[int, Field(ge=2)] = 5
    repeats: Annotated[int, Field(ge=1)] | None = None
    """Of the folds; empty: 3 below 96 runs, 2 below 256, then 1."""
    monotone: dict[str, dict[str, Literal["rising", "falling"]]] = {}
    """Metric to domain to direction, for regressors that can be held to it (lightgbm)."""
    samples: Positive = 20_000
    """Mixtures simulated by the solver."""
    top_k: Positive = 100
    """Best simulated mixtures whose mean starts the local search."""
    caution: Annotated[float, Field(ge=0)] | None = None
    """Standard deviations added to the objective in the search; empty: 0 for a convex surrogate,
    else 1."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Pull to natural: this many swarm spreads of the objective per nat of divergence."""
    bootstraps: Annotated[int, Field(ge=0)] = 12
    """Refits on resampled runs that say how far the optimum moves."""


class SlurmConfig(Strict):
    """What is asked of Slurm; every node sees the study and the Python environment."""

    partition: str | None = None
    """Empty: the cluster's default one."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features that nodes must have, in sbatch's words."""
    nodes: Positive | None = None
    """Jobs, each on one node, that the workers are spread over; empty: one job a worker. They
    wait, run and are requeued each on its own."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """Devices of each job; empty: as many as its workers need."""
    cpus_per_worker: Positive = 1
    memory_gb: PositiveFloat | None = None
    """For each worker; empty: the partition's default."""
    hours: Annotated[float, Field(gt=0, le=8760)] = 4.0
    """Time limit of a job. What it does not finish, it goes on with once Slurm runs it again."""
    signal_seconds: Annotated[int, Field(ge=10, le=65535)] = 120
    """Before the time limit at which workers are told to leave checkpoints; also what they have
    for it."""
    requeue: bool = True
    """Submit a job again that was preempted or reached its time limit with work left."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the workers start: modules, environment."""
    parameters: dict[str, str | int | bool] = {}
    """Further options of sbatch, without the dashes: {exclude: node7, exclusive: true}."""

    @field_validator("setup", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("parameters")
    @classmethod
    def _not_twice(cls, value: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for key in value:
            name = key.replace("_", "-").lstrip("-")
            if name in SLURM_OWN:
                raise ValueError(f"'{key}' is set by {SLURM_OWN[name]}")
        return value

    @model_validator(mode="after")
    def _in_time(self) -> SlurmConfig:
        if self.signal_seconds >= self.hours * 3600:
            raise ValueError(
                f"signal_seconds: {self.signal_seconds} is not within the time limit of "
                f"hours: {self.hours:g} ({self.hours * 3600:.0f} seconds)"
            )
        return self


_ITSELF = "the launcher itself"
SLURM_OWN = {
    **{key: f"launch.slurm.{key}" for key in ("partition", "account", "qos", "constraint")},
    "nodes": "launch.slurm.nodes", "gpus-per-node": "launch.slurm.gpus_per_node",
    "cpus-per-task": "launch.slurm.cpus_per_worker", "mem": "launch.slurm.memory_gb",
    "time": "launch.slurm.hours", "signal": "launch.slurm.signal_seconds",
    "requeue": "launch.slurm.requeue", "no-requeue": "launch.slurm.requeue",
    "array": _ITSELF, "output": _ITSELF, "error": _ITSELF, "open-mode": _ITSELF,
    "ntasks": _ITSELF, "ntasks-per-node": _ITSELF, "job-name": _ITSELF, "wrap": _ITSELF,
}  # fmt: skip
"""Options of sbatch that settings of ours already stand for."""


class RayConfig(Strict):
    """What is asked of Ray; every node sees the study and has the same Python environment."""

    address: str | None = None
    """Of the cluster, host:port; empty: RAY_ADDRESS, the cluster that this machine belongs to, or
    a new one on this machine that ends with the command."""
    cpus_per_worker: Positive = 1
    resources: dict[str, float] = {}
    """Further resources that each worker needs, by the cluster's own names."""
    autoscaling: bool = False
    """The cluster starts nodes when they are needed: do not refuse what today's do not have."""


class LaunchConfig(Strict):
    """Where runs are trained, and how; nothing here changes a result."""

    launcher: str = "local"
    """local, slurm, ray, or a plug-in's name."""
    workers: Positive | None = None
    """Processes at once; empty: one per core of this machine."""
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0
    """Devices of each worker; 0: it computes on one core."""
    members: Literal["auto"] | Positive = "auto"
    """Runs that a worker trains together as one array."""
    checkpoint_seconds: PositiveFloat = 60.0
    """Between checkpoints of a run."""
    claim_seconds: Annotated[float, Field(ge=0.5)] = 120.0
    """A worker that is not heard of for so long has lost its runs to the others."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts at a run that fails without getting any further; then it is FAILED."""
    cost_per_hour: PositiveFloat | None = None
    """Of one worker, in any currency; for the estimate of what a study will cost."""

    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()

    def overridden(
        self,
        *,
        launcher: str | None = None,
        workers: int | None = None,
        nodes: int | None = None,
        gpus_per_node: int | None = None,
        detach: bool = False,
    ) -> LaunchConfig:
        """These settings with what a command asks for instead.

        Raises:
            UserError: what it asks for does not go together.
        """
        launcher = launcher or self.launcher
        if launcher == "local" and detach:
            raise UserError(
                "--detach: workers of the launcher 'local' end with their command; choose "
                "another with --launcher, or start it under nohup"
            )
        if launcher == "local" and (nodes or 1) > 1:
            raise UserError(f"--nodes {nodes}: the launcher 'local' has one; --launcher slurm, ray")
        gpus = self.gpus_per_worker or (1 if gpus_per_node else 0)
        if nodes is not None or gpus_per_node is not None:
            if workers is not None:
                raise UserError("--workers: not together with --nodes and --gpus-per-node")
            if gpus_per_node is None:
                raise UserError("--nodes: give --gpus-per-node too, or --workers instead of both")
            if gpus_per_node % gpus:
                raise UserError(
                    f"--gpus-per-node {gpus_per_node}: not a multiple of launch.gpus_per_worker, "
                    f"which is {gpus}"
                )
            workers = (nodes or 1) * gpus_per_node // gpus
        slurm = self.slurm
        if gpus_per_node is not None:
            slurm = slurm.model_copy(update={"nodes": nodes or 1, "gpus_per_node": gpus_per_node})
        return self.model_copy(
            update={
                "launcher": launcher,
                "workers": workers or self.workers,
                "gpus_per_worker": gpus,
                "slurm": slurm,
            }
        )


class StudyConfig(Strict):
    """The whole of ``study.yaml``."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    domains: Annotated[tuple[Domain, ...], Field(min_length=1)]
    data: DataConfig = DataConfig()
    proxy: RunConfig = RunConfig()
    target: RunConfig = RunConfig(model=ModelConfig(size="15m"))
    """The larger model that the mixture is for."""
    swarm: SwarmConfig = SwarmConfig()
    space: SpaceConfig = SpaceConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    fit: FitConfig = FitConfig()
    launch: LaunchConfig = LaunchConfig()

    @field_validator("domains", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    def data_settings(self) -> dict[str, Any]:
        """What decides the token shards, in the shape of ``study.yaml``; plain values.

        Recorded when the data are built and compared ever after: a key that has its default is
        left out, so that a later version with more keys finds nothing changed.
        """
        tokenizer = self.data.tokenizer
        own = {"path"} if tokenizer.path is not None else {"vocab_size", "train_bytes"}
        return {
            "domains": [
                d.model_dump(
                    mode="json", include={"name", "train", "valid", "valid_share"},
                    exclude={"valid_share"} if d.valid else None, exclude_defaults=True,
                )
                for d in self.domains
            ],
            "data": {"tokenizer": tokenizer.model_dump(include=own, exclude_defaults=True)},
        }  # fmt: skip

    @model_validator(mode="after")
    def _budget_known(self) -> StudyConfig:
        for key, run in (("proxy", self.proxy), ("target", self.target)):
            if run.train.repetition == "match" and self.space.budget_tokens is None:
                raise ValueError(f"{key}.train.repetition: match needs space.budget_tokens")
        return self

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Domain names in study order."""
        return tuple(d.name for d in self.domains)


class StageConfig(Strict):
    """A stage file for ``regmix run``: one model trained on one mixture of a study's data."""

    kind: Literal["pretrain"] = "pretrain"
    study: str
    """Study folder whose token shards are used; relative to the stage file."""
    mixture: str
    """Mixture YAML; relative to the stage file."""
    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    max_epochs: PositiveFloat | None = None
    """Refuse to start if a domain would be repeated more often."""


def find_study(path: str | Path) -> StudyLayout:
    """The study in a folder.

    Raises:
        UserError: there is no ``study.yaml``.
    """
    layout = StudyLayout(Path(path).expanduser().resolve())
    if not layout.config.is_file():
        raise UserError(f"{path}: no study.yaml in it; `regmix init {path}` writes one")
    return layout


def load_study(path: Path) -> StudyConfig:
    """Read ``study.yaml``.

    Raises:
        UserError: file, line, key, value and the valid choices of the first thing that is wrong.
    """
    config = load(path, StudyConfig)
    names = config.domain_names
    for index, name in enumerate(names):
        if name in names[:index]:
            where = place(path, ("domains", index))
            raise UserError(f"{where}: domain '{name}' is named twice")
    _known(path, config.space.bounds, names, ("space", "bounds"))
    for group, bound in config.space.groups.items():
        plain = [d for d in bound.domains if not _PATTERN.search(d)]
        _known(path, plain, names, ("space", "groups", group, "domains"))
    for ratio, sides in config.space.ratios.items():
        for side, given in (("of", sides.of), ("to", sides.to)):
            plain = [d for d in given if not _PATTERN.search(d)]
            _known(path, plain, names, ("space", "ratios", ratio, side))
    for name, shares in config.space.pinned.items():
        _known(path, shares, names, ("space", "pinned", name))
    return config


def check_text_metrics(path: Path, config: StudyConfig) -> None:
    """Refuse an objective over bits per byte of a domain that the study does not have.

    Other metrics are not judged: which ones there are is known only once something is measured.

    Raises:
        UserError: as :func:`load_study`.
    """
    valid = tuple(TEXT_METRICS + name for name in config.domain_names)
    named: dict[str, Iterable[str]] = {
        "weights": config.objective.weights,
        "directions": config.objective.directions,
    }
    for key, metrics in named.items():
        for metric in metrics:
            if metric.startswith(TEXT_METRICS):
                _known(path, (metric,), valid, ("objective", key, metric), "metric")


def check_name(value: str, where: str) -> None:
    """Refuse what cannot be the name of a domain.

    Raises:
        UserError: with the rule.
    """
    try:
        _valid_name(value)
    except ValueError as exc:
        raise UserError(f"{where}: domain '{value}': {exc}") from exc


def name_from(folder: Path) -> str:
    """A study's name that follows from its folder's."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in folder.name)
    return kept.lstrip(".")[:200] or "study"


def _known(
    path: Path, given: Any, names: tuple[str, ...], key: KeyPath, kind: str = "domain"
) -> None:
    for name in given:
        if name not in names:
            raise unknown_name(kind, name, names, place(path, key))
