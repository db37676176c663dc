"""A recipe with nothing left open but which run a stage goes on from."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from proxy_trainer.data.chat import build as chat_build
from proxy_trainer.data.chat.sampler import ChatSampler, source_epochs
from proxy_trainer.data.chat.shards import ChatManifest, open_sources
from proxy_trainer.evals import kept_tasks
from proxy_trainer.evals.task import Task
from proxy_trainer.launch.local import cores
from proxy_trainer.sharded.ranks import part
from proxy_trainer.stages import ledger, metrics
from proxy_trainer.stages.ledger import Use
from proxy_trainer.stages.metrics import CHAT
from proxy_trainer.stages.origins import Origins
from proxy_trainer.stages.plan import Recipe, Stage
from proxy_trainer.stages.written import Written
from regmix import sizes
from regmix.chat import Conversations
from regmix.config import TrainConfig
from regmix.errors import UserError, unknown_name
from regmix.files import expanded
from regmix.mixture import Mixture, MixtureFile
from regmix.recipe import StageConfig
from regmix.runs import RunSpec
from regmix.sizes import TrainPlan
from regmix.tasks import taken_in

SFT_LR = 0.1
"""Of the size's learning rate, where an SFT stage names none: our choice, to be swept."""
SKIP_SIGMA = 6.0
"""Default of stages: a step this far above the last ones is left out (as OLMo-core does)."""

OVERLAP = 0.01
"""Share of held-out conversations that may be trained on too: any two sets share a greeting."""


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
        self.progress = progress
        self.written = Written.load(path)
        self.origins = Origins(self.written)
        study = self.written.study
        wanted = taken_in(study.layout, study.config.evaluate)
        self.tasks = tuple(kept_tasks.load(study.layout, wanted))
        self._chats: dict[Conversations, ChatManifest] = {}
        held_out = self.written.config.held_out
        self.held_out = self._chat(held_out) if held_out else None

    def recipe(self) -> Recipe:
        stages: list[Stage] = []
        for index, config in enumerate(self.written.config.stages):
            stages.append(self._stage(index, config, stages))
        for index, after in enumerate(stages[1:]):
            if after.goes_on and after.optimiser:
                kept = tuple(replace(v, keep_state=True) for v in stages[index].variants)
                stages[index] = replace(stages[index], variants=kept)
        own = self.written
        found = Recipe(
            own.path, own.config, own.study, self.origins.shape, tuple(stages), self.held_out
        )
        if (cap := self.written.config.max_epochs) is not None:
            for uses in found.possible_uses():
                ledger.check(uses, cap, str(self.written.path))
        for index, stage in enumerate(found.stages):
            try:
                part(stage.variants[0].plan.batch, 0, stage.world)
            except UserError as error:
                raise self.written.wrong(index, "train.batch_tokens", str(error)) from None
        return found

    def _stage(self, index: int, config: StageConfig, before: list[Stage]) -> Stage:
        goes_on = self.origins.goes_on(index, config)
        elsewhere = self.origins.elsewhere(index)
        if config.orders > 1 and not goes_on and not elsewhere:
            raise self.written.wrong(index, "orders", "what starts from scratch cannot be averaged")
        tasks = self._tasks(index, config)
        self._check_metric(index, config, tasks)
        optimiser = self.origins.optimiser(index, config, goes_on)
        if goes_on and optimiser and _averages(before[-1].config):
            raise self.written.wrong(
                index, "optimiser",
                f"stage '{before[-1].config.name}' ends in an average of runs, which has no "
                "optimiser; give `optimiser: fresh`",
            )  # fmt: skip
        train = self._train(index, config, before[-1] if goes_on else None)
        seeds = self.origins.seeds(index, config, before)
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
        before_it = self.origins.read_before(index)
        return Stage(
            config, tuple(variants), goes_on, optimiser, before_it + made[0][1],
            config.parallel or self.written.config.parallel, tasks,
            before_it + base[0][1] if base else (), chat,
        )  # fmt: skip

    def _tasks(self, index: int, config: StageConfig) -> tuple[Task, ...]:
        """What the stage's models are asked."""
        if config.evaluate is None:
            return self.tasks
        known = {task.name: task for task in self.tasks}
        for name in config.evaluate:
            if name not in known:
                raise unknown_name("task", name, list(known), self.written.place(index, "evaluate"))
        return tuple(known[name] for name in config.evaluate)

    def _check_metric(self, index: int, config: StageConfig, tasks: tuple[Task, ...]) -> None:
        """Refuse before anything is trained what could not be told once it is."""
        held_out = self.written.config.held_out
        valid = metrics.measured(
            self.written.study.domains,
            [s.name for s in held_out.sources] if held_out else [],
            [task.name for task in tasks],
        )
        if config.metric is not None and config.metric not in valid:
            raise unknown_name("metric", config.metric, valid, self.written.place(index, "metric"))

    def _train(self, index: int, config: StageConfig, before: Stage | None) -> TrainConfig:
        """The stage's settings, with what its kind makes of those that are not given."""
        given = config.train.model_fields_set
        defaults: dict[str, Any] = {"skip_sigma": SKIP_SIGMA}
        if config.kind != "pretrain":
            defaults |= {"schedule": "linear", "min_lr_ratio": 0.0, "warmup_share": 0.0}
        if config.kind == "midtrain" and not (config.train.lr or config.sweep.lr):
            defaults["lr"] = self.origins.rate_before(index, before)
        if config.kind == "sft":
            defaults |= {"warmup_share": 0.03, "lr": SFT_LR * sizes.default_lr(self.origins.shape)}
        return config.train.model_copy(
            update={key: value for key, value in defaults.items() if key not in given}
        )

    def _spec(
        self, index: int, config: StageConfig, seed: int, mixture: Mixture, plan: TrainPlan
    ) -> RunSpec:
        return RunSpec(
            name=f"{self.written.config.name}-{config.name}",
            role="stage",
            mixture=mixture,
            model=self.origins.shape,
            plan=plan,
            vocab_size=self.origins.vocab_size,
            data=self.written.manifest.fingerprint,
            seed=seed,
            keep_model=True,
            held_out=self.held_out.fingerprint if self.held_out else "",
            start=self.origins.begins(index, config),
            tasks=tuple(task.fingerprint for task in self._tasks(index, config)),
            tasks_at=self.written.study.config.evaluate.points,
        )

    def _mixture(
        self, index: int, config: StageConfig, train: TrainConfig, seed: int
    ) -> tuple[RunSpec, tuple[Use, ...]]:
        """A run on the study's domains, and what it reads of them."""
        assert config.mixture is not None
        path = self.written.folder / expanded(config.mixture)
        mixture = MixtureFile.load(path, self.written.study.domains).mixture
        if config.microanneal is not None:
            source, share = config.microanneal.source, config.microanneal.share
            if source not in mixture.domains:
                where = self.written.place(index, "microanneal.source")
                raise unknown_name("domain", source, mixture.domains, where)
            mixture = Mixture.of(
                {d: (1 - share) * w + share * (d == source) for d, w in mixture.as_dict().items()}
            )
        spec = self._spec(index, config, seed, mixture, sizes.plan(train, self.origins.shape))
        uses = tuple(
            Use(config.name, d, w * spec.tokens, self.written.manifest.domain(d).train.tokens)
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
            train.model_copy(update={"tokens": int(sum(read.values()))}), self.origins.shape
        ).batch
        sampler = ChatSampler(
            open_sources(self.written.study.layout.chat_data(manifest.fingerprint), manifest),
            epochs,
            context=self.origins.shape.context,
            seed=seed,
            pad_id=manifest.eod_id,
        )
        a_step = batch * self.origins.shape.context
        update = {"tokens": sampler.steps(batch) * a_step, "batch_tokens": a_step}
        plan = sizes.plan(train.model_copy(update=update), self.origins.shape)
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
                self.written.study.layout,
                data,
                folder=self.written.folder,
                tokenizer=self.written.study.layout.tokenizer,
                context=self.origins.shape.context,
                workers=len(cores()),
                progress=self.progress,
                base=self.origins.base_folder(),
            )
        return self._chats[data]

    def _check_apart(self, index: int, chat: ChatManifest, held_out: ChatManifest) -> None:
        """Refuse to measure on the very conversations that are trained on."""
        trained, measured = (
            open_sources(self.written.study.layout.chat_data(own.fingerprint), own).values()
            for own in (chat, held_out)
        )
        for source, other in product(trained, measured):
            both = int(np.isin(other.digests, source.digests).sum())
            if both > OVERLAP * other.conversations:
                raise self.written.wrong(
                    index, "data.sources",
                    f"'{source.source}' holds {both:,} of the {other.conversations:,} "
                    f"conversations of held_out '{other.source}'; they can be trained on or "
                    "measured on",
                )  # fmt: skip


def _averages(config: StageConfig) -> bool:
    """Whether a stage ends in an average of its runs."""
    return config.orders > 1 or config.keep == "merge"
