"""A recipe with nothing left open but which run a stage goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from proxy_trainer import starts
from proxy_trainer.data.chat import build as chat_build
from proxy_trainer.data.chat.sampler import ChatSampler, source_epochs
from proxy_trainer.data.chat.shards import ChatManifest, open_sources
from proxy_trainer.evals import kept_tasks
from proxy_trainer.evals.task import Task
from proxy_trainer.launch.local import cores
from proxy_trainer.optim import learning_rate
from proxy_trainer.sharded.ranks import part
from proxy_trainer.stages import earlier, ledger, metrics
from proxy_trainer.stages.earlier import Earlier
from proxy_trainer.stages.ledger import Use
from proxy_trainer.stages.metrics import CHAT
from regmix import sizes, strict
from regmix.chat import Conversations
from regmix.config import TrainConfig
from regmix.errors import UserError, unknown_name
from regmix.families import Shape, TransformersShape
from regmix.manifest import DataManifest
from regmix.mixture import Mixture, MixtureFile
from regmix.recipe import ParallelConfig, RecipeConfig, StageConfig, StartRun
from regmix.runs import RunSpec, Start
from regmix.sizes import TrainPlan
from regmix.study import Study
from regmix.tasks import taken_in

_WORDS = ("scratch", "previous")
SFT_LR = 0.1
"""Of the size's learning rate, where an SFT stage names none: our choice, to be swept."""
SKIP_SIGMA = 6.0
"""Default of stages: a step this far above the last ones is left out (as OLMo-core does)."""

OVERLAP = 0.01
"""Share of held-out conversations that may be trained on too: any two sets share a greeting."""


@dataclass(frozen=True)
class Stage:
    """One stage, ready to be made into runs."""

    config: StageConfig
    variants: tuple[RunSpec, ...]
    """The runs of its sweep, each whole but for its start."""
    goes_on: bool
    """From the stage before."""
    optimiser: bool
    uses: tuple[Use, ...]
    """What its runs read; of a micro-anneal, those with its source."""
    parallel: ParallelConfig
    tasks: tuple[Task, ...]
    """What its models are asked."""
    base_uses: tuple[Use, ...] = ()
    """Of a micro-anneal: what the runs on the mixture alone read."""
    chat: ChatManifest | None = None
    """What it reads, of SFT."""

    @property
    def world(self) -> int:
        """Processes that train one run."""
        return self.parallel.processes * self.parallel.nodes

    def reads(self, run: RunSpec) -> tuple[Use, ...]:
        """What one of its runs reads."""
        alone = bool(self.base_uses) and run.mixture != self.variants[0].mixture
        return self.base_uses if alone else self.uses

    def runs(self, start: Start | None) -> list[RunSpec]:
        """The runs of the stage, from what the stage before came to."""
        return [replace(v, start=start) if self.goes_on else v for v in self.variants]


@dataclass(frozen=True)
class Recipe:
    """A recipe as a whole."""

    path: Path
    config: RecipeConfig
    study: Study
    shape: Shape
    stages: tuple[Stage, ...]
    held_out: ChatManifest | None = None
    """Conversations that are only measured."""

    def uses(self, chosen: Sequence[RunSpec] = ()) -> list[Use]:
        """What the final model reads: in the last stage from scratch and those after.

        Args:
            chosen: the run of each stage that is over; the first planned one of the others.
        """
        return self._through([s.reads(run) for s, run in zip(self.stages, chosen, strict=False)])

    def possible_uses(self) -> list[list[Use]]:
        """As :meth:`uses`, for every model that micro-anneals may choose."""
        each = [(s.uses, s.base_uses) if s.base_uses else (s.uses,) for s in self.stages]
        return [self._through(own) for own in product(*each)]

    def _through(self, known: Sequence[tuple[Use, ...]]) -> list[Use]:
        planned = [stage.uses for stage in self.stages[len(known) :]]
        found: list[Use] = []
        for stage, uses in zip(self.stages, [*known, *planned], strict=True):
            found = [*found, *uses] if stage.goes_on else list(uses)
        return found


def resolve(path: Path, progress: chat_build.Progress | None = None) -> Recipe:
    """Read a recipe and everything that it names; conversations are tokenised, nothing is trained.

    Args:
        progress: called with files done and files in all, of the conversations at hand.

    Raises:
        UserError: something in the recipe, the study, a mixture or the conversations is not as it
            should be, a source would be read too often, or the processes do not divide a batch.
    """
    return _Resolver(path, progress).recipe()


class _Resolver:
    """What the stages of one recipe share while they are resolved."""

    def __init__(self, path: Path, progress: chat_build.Progress | None) -> None:
        self.path, self.progress = path, progress
        self.config = strict.load(path, RecipeConfig)
        self.folder = path.expanduser().resolve().parent
        self.study = Study.open(self.folder / Path(self.config.study).expanduser())
        self.manifest: DataManifest = self.study.as_configured()
        self.taken: dict[int, str] = {}
        """Fingerprints of the models from elsewhere, by the stage that starts from them."""
        self.earlier: dict[int, Earlier] = {}
        """Runs of the study that a stage starts from."""
        wanted = taken_in(self.study.layout, self.study.config.evaluate)
        self.tasks = tuple(kept_tasks.load(self.study.layout, wanted))
        self.vocab_size = self.manifest.vocab_size
        """Rows of the embedding: the tokenizer's words, and those that a folder has beside them."""
        self.shape: Shape = self._shape()
        self._chats: dict[Conversations, ChatManifest] = {}
        self.held_out = self._chat(self.config.held_out) if self.config.held_out else None

    def recipe(self) -> Recipe:
        stages: list[Stage] = []
        for index, config in enumerate(self.config.stages):
            stages.append(self._stage(index, config, stages))
        for index, after in enumerate(stages[1:]):
            if after.goes_on and after.optimiser:
                kept = tuple(replace(v, keep_state=True) for v in stages[index].variants)
                stages[index] = replace(stages[index], variants=kept)
        found = Recipe(self.path, self.config, self.study, self.shape, tuple(stages), self.held_out)
        if (cap := self.config.max_epochs) is not None:
            for uses in found.possible_uses():
                ledger.check(uses, cap, str(self.path))
        for stage in found.stages:
            part(stage.variants[0].plan.batch, 0, stage.world)
        return found

    def _stage(self, index: int, config: StageConfig, before: list[Stage]) -> Stage:
        goes_on = self._goes_on(index, config)
        elsewhere = index in self.taken or index in self.earlier
        if config.orders > 1 and not goes_on and not elsewhere:
            raise self._wrong(index, "orders", "what starts from scratch cannot be averaged")
        tasks = self._tasks(index, config)
        self._check_metric(index, config, tasks)
        optimiser = self._optimiser(index, config, goes_on)
        if goes_on and optimiser and _averages(before[-1].config):
            raise self._wrong(
                index, "optimiser",
                f"stage '{before[-1].config.name}' ends in an average of runs, which has no "
                "optimiser; give `optimiser: fresh`",
            )  # fmt: skip
        train = self._train(index, config, before[-1] if goes_on else None)
        seed = self.config.seed + index if config.seed is None else config.seed
        seeds = config.sweep.seed or tuple(seed + 1000 * i for i in range(config.orders))
        make = self._sft if config.kind == "sft" else self._mixture
        made = [make(index, config, train, own) for own in seeds]
        base = [self._base(index, config, train, own) for own in seeds if config.microanneal]
        variants = [
            replace(spec, plan=replace(spec.plan, lr=lr))
            for spec, _ in (*made, *base)
            for lr in config.sweep.lr or (spec.plan.lr,)
        ]
        chat = self._chat(config.data) if config.data is not None else None
        if chat is not None and self.held_out is not None:
            self._check_apart(index, chat, self.held_out)
        before_it = self._read_before(index)
        return Stage(
            config, tuple(variants), goes_on, optimiser, before_it + made[0][1],
            config.parallel or self.config.parallel, tasks,
            before_it + base[0][1] if base else (), chat,
        )  # fmt: skip

    def _optimiser(self, index: int, config: StageConfig, goes_on: bool) -> bool:
        """Whether moments go on from what is before."""
        own = self.earlier.get(index)
        if config.optimiser == "keep" and not goes_on and own is None:
            raise self._wrong(
                index, "optimiser", "there is none to keep: no stage or run is gone on from"
            )
        keeps = config.optimiser or ("keep" if config.kind == "midtrain" else "fresh")
        if keeps == "keep" and own is not None:
            earlier.check_moments(self.study.layout, own, self._place(index, "start"))
        return keeps == "keep" and (goes_on or own is not None)

    def _read_before(self, index: int) -> tuple[Use, ...]:
        own = self.earlier.get(index)
        if own is None:
            return ()
        return earlier.uses(self.study.layout, self.manifest, own)

    def _tasks(self, index: int, config: StageConfig) -> tuple[Task, ...]:
        """What the stage's models are asked."""
        if config.evaluate is None:
            return self.tasks
        known = {task.name: task for task in self.tasks}
        for name in config.evaluate:
            if name not in known:
                raise unknown_name("task", name, list(known), self._place(index, "evaluate"))
        return tuple(known[name] for name in config.evaluate)

    def _check_metric(self, index: int, config: StageConfig, tasks: tuple[Task, ...]) -> None:
        """Refuse before anything is trained what could not be told once it is."""
        held_out = self.config.held_out
        valid = metrics.measured(
            self.study.domains,
            [s.name for s in held_out.sources] if held_out else [],
            [task.name for task in tasks],
        )
        if config.metric is not None and config.metric not in valid:
            raise unknown_name("metric", config.metric, valid, self._place(index, "metric"))

    def _shape(self) -> Shape:
        """The model of all stages: the recipe's, or that of the folder that they start from."""
        found: Shape | None = None
        if self.config.transformers is not None:
            path = self.folder / Path(self.config.transformers).expanduser()
            found = TransformersShape.load(path, self.config.context)
        elif self.config.model is not None:
            found = sizes.shape(self.config.model)
        for index, stage in enumerate(self.config.stages):
            if isinstance(stage.start, StartRun):
                found = self._of_run(index, stage.start, found)
            elif stage.start is not None and stage.start not in _WORDS:
                found = self._taken_in(index, stage.start, found)
        if found is None:
            raise UserError(
                f"{self.path}: model: a size is needed, as in `model: {{size: 60m}}`, or "
                "`transformers: config.json`, or a folder that the first stage starts from"
            )
        return found

    def _taken_in(self, index: int, start: str, wanted: Shape | None) -> Shape:
        """The shape of a model from elsewhere, taken into the study."""
        folder = self.folder / Path(start).expanduser()
        if not folder.is_dir():
            raise self._wrong(
                index, "start",
                f"'{start}' is neither 'scratch' nor 'previous' nor a model's folder",
            )  # fmt: skip
        context = self.config.context if wanted is None else wanted.context
        first = not self.taken
        self.taken[index], theirs = starts.take_in(self.study.layout, folder, context)
        if first and theirs.vocab_size > self.vocab_size:
            # Rows that no token has: embeddings are padded to sizes that devices like.
            self.vocab_size = theirs.vocab_size
        try:
            starts.check(theirs, wanted or theirs.shape, self.vocab_size)
        except UserError as exc:
            raise self._wrong(index, "start", f"not the recipe's model; {exc}") from exc
        return wanted or theirs.shape

    def _of_run(self, index: int, start: StartRun, wanted: Shape | None) -> Shape:
        """The shape of a model of the study."""
        where = self._place(index, "start")
        own = earlier.found(self.study.layout, self.manifest, start, where)
        begins = starts.weights(self.study.layout, own.start, own.spec.model.context)
        if not self.taken and not self.earlier:
            self.vocab_size = own.spec.vocab_size
        self.earlier[index] = own
        try:
            starts.check(begins, wanted or own.spec.model, self.vocab_size)
        except UserError as exc:
            raise self._wrong(index, "start", f"not the recipe's model; {exc}") from exc
        return wanted or own.spec.model

    def _begins(self, index: int, config: StageConfig) -> Start | None:
        """What the stage's runs start from, other than the stage before."""
        if index in self.taken:
            return Start(folder=self.taken[index])
        if index not in self.earlier:
            return None
        optimiser = self._optimiser(index, config, goes_on=False)
        return replace(self.earlier[index].start, optimiser=optimiser)

    def _goes_on(self, index: int, config: StageConfig) -> bool:
        start = config.start or ("previous" if index else "scratch")
        if start == "previous" and not index:
            raise self._wrong(index, "start", "no stage is before the first")
        if start == "scratch" and config.kind != "pretrain":
            raise self._wrong(index, "start", f"{config.kind} goes on from a model")
        return start == "previous"

    def _train(self, index: int, config: StageConfig, before: Stage | None) -> TrainConfig:
        """The stage's settings, with what its kind makes of those that are not given."""
        given = config.train.model_fields_set
        defaults: dict[str, Any] = {"skip_sigma": SKIP_SIGMA}
        if config.kind != "pretrain":
            defaults |= {"schedule": "linear", "min_lr_ratio": 0.0, "warmup_share": 0.0}
        if config.kind == "midtrain" and not (config.train.lr or config.sweep.lr):
            defaults["lr"] = self._rate_before(index, before)
        if config.kind == "sft":
            defaults |= {"warmup_share": 0.03, "lr": SFT_LR * sizes.default_lr(self.shape)}
        return config.train.model_copy(
            update={key: value for key, value in defaults.items() if key not in given}
        )

    def _rate_before(self, index: int, before: Stage | None) -> float:
        """The learning rate that the stage before ends at."""
        if before is None and index in self.earlier and self.earlier[index].rate:
            return self.earlier[index].rate
        if before is None:
            raise self._wrong(
                index, "train.lr",
                "a model from elsewhere does not say where its learning rate ended, and a run may "
                "have ended at 0; say what this stage begins with",
            )  # fmt: skip
        plans = [v.plan for v in before.variants]
        rates = sorted({learning_rate(plan, plan.steps - 1) for plan in plans})
        if len(rates) > 1:
            raise self._wrong(
                index, "train.lr",
                f"the runs of stage '{before.config.name}' end at different learning rates "
                f"({', '.join(f'{r:.3g}' for r in rates)}); say what this one begins with",
            )  # fmt: skip
        if not rates[0]:
            raise self._wrong(
                index, "train.lr",
                f"stage '{before.config.name}' ends at a learning rate of 0; say what this one "
                "begins with",
            )  # fmt: skip
        return rates[0]

    def _spec(
        self, index: int, config: StageConfig, seed: int, mixture: Mixture, plan: TrainPlan
    ) -> RunSpec:
        return RunSpec(
            name=f"{self.config.name}-{config.name}",
            role="stage",
            mixture=mixture,
            model=self.shape,
            plan=plan,
            vocab_size=self.vocab_size,
            data=self.manifest.fingerprint,
            seed=seed,
            keep_model=True,
            held_out=self.held_out.fingerprint if self.held_out else "",
            start=self._begins(index, config),
            tasks=tuple(task.fingerprint for task in self._tasks(index, config)),
            tasks_at=self.study.config.evaluate.points,
        )

    def _mixture(
        self, index: int, config: StageConfig, train: TrainConfig, seed: int
    ) -> tuple[RunSpec, tuple[Use, ...]]:
        """A run on the study's domains, and what it reads of them."""
        assert config.mixture is not None
        path = self.folder / Path(config.mixture).expanduser()
        mixture = MixtureFile.load(path, self.study.domains).mixture
        if config.microanneal is not None:
            source, share = config.microanneal.source, config.microanneal.share
            if source not in mixture.domains:
                where = strict.place(self.path, ("stages", index, "microanneal", "source"))
                raise unknown_name("domain", source, mixture.domains, where)
            mixture = Mixture.of(
                {d: (1 - share) * w + share * (d == source) for d, w in mixture.as_dict().items()}
            )
        spec = self._spec(index, config, seed, mixture, sizes.plan(train, self.shape))
        uses = tuple(
            Use(config.name, d, w * spec.tokens, self.manifest.domain(d).train.tokens)
            for d, w in mixture.as_dict().items()
            if w
        )
        return spec, uses

    def _base(
        self, index: int, config: StageConfig, train: TrainConfig, seed: int
    ) -> tuple[RunSpec, tuple[Use, ...]]:
        """What a micro-anneal is compared with: the same run on the mixture alone."""
        alone = config.model_copy(update={"microanneal": None})
        spec, uses = self._mixture(index, alone, train, seed)
        return replace(spec, name=f"{spec.name}-base"), uses

    def _sft(
        self, index: int, config: StageConfig, train: TrainConfig, seed: int
    ) -> tuple[RunSpec, tuple[Use, ...]]:
        """A run on conversations, and what it reads of them."""
        assert config.data is not None
        manifest = self._chat(config.data)
        epochs = source_epochs(config.data, manifest, train.tokens)
        read = {name: e * manifest.source(name).tokens for name, e in epochs.items()}
        batch = sizes.plan(
            train.model_copy(update={"tokens": int(sum(read.values()))}), self.shape
        ).batch
        sampler = ChatSampler(
            open_sources(self.study.layout.chat_data(manifest.fingerprint), manifest),
            epochs,
            context=self.shape.context,
            seed=seed,
            pad_id=manifest.eod_id,
        )
        a_step = batch * self.shape.context
        update = {"tokens": sampler.steps(batch) * a_step, "batch_tokens": a_step}
        plan = sizes.plan(train.model_copy(update=update), self.shape)
        total = sum(read.values())
        mixture = Mixture.of({name: tokens / total for name, tokens in read.items()})
        spec = replace(
            self._spec(index, config, seed, mixture, plan),
            chat=manifest.fingerprint,
            epochs=tuple(epochs.items()),
        )
        uses = tuple(
            Use(
                config.name,
                CHAT + name,
                tokens,
                manifest.source(name).tokens,
                parts=manifest.source(name).contents,
            )
            for name, tokens in read.items()
        )
        return spec, uses

    def _chat(self, data: Conversations) -> ChatManifest:
        if data not in self._chats:  # looking again means reading all files again
            self._chats[data] = chat_build.build(
                self.study.layout,
                data,
                folder=self.folder,
                tokenizer=self.study.layout.tokenizer,
                context=self.shape.context,
                workers=len(cores()),
                progress=self.progress,
                base=self._base_folder(),
            )
        return self._chats[data]

    def _check_apart(self, index: int, chat: ChatManifest, held_out: ChatManifest) -> None:
        """Refuse to measure on the very conversations that are trained on."""
        trained, measured = (
            open_sources(self.study.layout.chat_data(own.fingerprint), own).values()
            for own in (chat, held_out)
        )
        for source, other in product(trained, measured):
            both = int(np.isin(other.digests, source.digests).sum())
            if both > OVERLAP * other.conversations:
                raise self._wrong(
                    index, "data.sources",
                    f"'{source.source}' holds {both:,} of the {other.conversations:,} "
                    f"conversations of held_out '{other.source}'; they can be trained on or "
                    "measured on",
                )  # fmt: skip

    def _base_folder(self) -> Path | None:
        """The model from elsewhere that is gone on from, whose chat template is its own."""
        begins = [Start(folder=taken) for taken in self.taken.values()]
        begins += [own.start for own in self.earlier.values() if not own.start.step]
        return starts.model_folder(self.study.layout, begins[0]) if begins else None

    def _wrong(self, index: int, key: str, what: str) -> UserError:
        return UserError(f"{self._place(index, key)}: {what}")

    def _place(self, index: int, key: str) -> str:
        return strict.place(self.path, ("stages", index, *key.split(".")))


def _averages(config: StageConfig) -> bool:
    """Whether a stage ends in an average of its runs."""
    return config.orders > 1 or config.keep == "merge"
