"""What the stages of a recipe start from: scratch, the stage before, a run, or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from proxy_trainer import starts
from proxy_trainer.optim import learning_rate
from proxy_trainer.stages import earlier
from proxy_trainer.stages.earlier import Earlier
from proxy_trainer.stages.ledger import Use
from proxy_trainer.stages.plan import Stage
from proxy_trainer.stages.written import Written
from regmix import sizes
from regmix.errors import UserError
from regmix.families import Shape, TransformersShape
from regmix.files import expanded
from regmix.recipe import StageConfig, StartRun
from regmix.runs import Start

_WORDS = ("scratch", "previous")


class Origins:
    """The models that are gone on from, and the one shape that all of a recipe's models have."""

    def __init__(self, written: Written) -> None:
        """Look at the folders and runs that stages name; folders are taken into the study.

        Raises:
            UserError: one is not there, or is not of the recipe's model.
        """
        self.written = written
        self.taken: dict[int, str] = {}
        """Fingerprints of the models from elsewhere, by the stage that starts from them."""
        self.earlier: dict[int, Earlier] = {}
        """Runs of the study that a stage starts from."""
        self.vocab_size = written.manifest.vocab_size
        """Rows of the embedding: the tokenizer's words, and those that a folder has beside them."""
        self.shape: Shape = self._shape()

    def elsewhere(self, index: int) -> bool:
        """Whether a stage starts from a folder or a run, rather than scratch or a stage."""
        return index in self.taken or index in self.earlier

    def optimiser(self, index: int, config: StageConfig, goes_on: bool) -> bool:
        """Whether moments go on from what is before."""
        own = self.earlier.get(index)
        if config.optimiser == "keep" and not goes_on and own is None:
            raise self.written.wrong(
                index, "optimiser", "there is none to keep: no stage or run is gone on from"
            )
        keeps = config.optimiser or ("keep" if config.kind == "midtrain" else "fresh")
        if keeps == "keep" and own is not None:
            earlier.check_moments(
                self.written.study.layout, own, self.written.place(index, "start")
            )
        return keeps == "keep" and (goes_on or own is not None)

    def read_before(self, index: int) -> tuple[Use, ...]:
        """What the run that a stage starts from has read."""
        own = self.earlier.get(index)
        if own is None:
            return ()
        return earlier.uses(self.written.study.layout, self.written.manifest, own)

    def seeds(self, index: int, config: StageConfig, before: Sequence[Stage]) -> tuple[int, ...]:
        """Of the stage's runs: what is given, or others than any by which text was read before.

        Raises:
            UserError: one is given by which a run that is gone on from has read.
        """
        read: dict[int, str] = {}
        for own in self.earlier.values():
            read |= earlier.seeds(self.written.study.layout, own.spec)
        given = config.sweep.seed
        if config.seed is not None:
            given = _orders(config.seed, config.orders)
        for seed in given if config.kind != "sft" else ():
            if seed in read:
                raise self.written.wrong(
                    index, "sweep.seed" if config.sweep.seed else "seed",
                    f"run {read[seed]}, which is gone on from, has read by seed {seed}: the same "
                    "text would come again, in the same order; give another, or none",
                )  # fmt: skip
        if config.sweep.seed:
            return config.sweep.seed
        taken = {*read, *(variant.seed for stage in before for variant in stage.variants)}
        first = self.written.config.seed + index if config.seed is None else config.seed
        while config.seed is None and taken & {*_orders(first, config.orders)}:
            first += 1
        return _orders(first, config.orders)

    def _shape(self) -> Shape:
        """The model of all stages: the recipe's, or that of the folder that they start from."""
        found: Shape | None = None
        if self.written.config.transformers is not None:
            path = self.written.folder / expanded(self.written.config.transformers)
            found = TransformersShape.load(path, self.written.config.context)
        elif self.written.config.model is not None:
            found = sizes.shape(self.written.config.model)
        for index, stage in enumerate(self.written.config.stages):
            if isinstance(stage.start, StartRun):
                found = self._of_run(index, stage.start, found)
            elif stage.start is not None and stage.start not in _WORDS:
                found = self._taken_in(index, stage.start, found)
        if found is None:
            raise UserError(
                f"{self.written.path}: model: a size is needed, as in `model: {{size: 60m}}`, or "
                "`transformers: config.json`, or a folder that the first stage starts from"
            )
        return found

    def _taken_in(self, index: int, start: str, wanted: Shape | None) -> Shape:
        """The shape of a model from elsewhere, taken into the study."""
        folder = self.written.folder / expanded(start)
        if not folder.is_dir():
            raise self.written.wrong(
                index, "start",
                f"'{start}' is neither 'scratch' nor 'previous' nor a model's folder",
            )  # fmt: skip
        context = self.written.config.context if wanted is None else wanted.context
        first = not self.taken
        self.taken[index], theirs = starts.take_in(self.written.study.layout, folder, context)
        if first and theirs.vocab_size > self.vocab_size:
            # Rows that no token has: embeddings are padded to sizes that devices like.
            self.vocab_size = theirs.vocab_size
        try:
            starts.check(theirs, wanted or theirs.shape, self.vocab_size)
        except UserError as exc:
            raise self.written.wrong(index, "start", f"not the recipe's model; {exc}") from exc
        return wanted or theirs.shape

    def _of_run(self, index: int, start: StartRun, wanted: Shape | None) -> Shape:
        """The shape of a model of the study."""
        where = self.written.place(index, "start")
        own = earlier.found(self.written.study.layout, self.written.manifest, start, where)
        begins = starts.weights(self.written.study.layout, own.start, own.spec.model.context)
        if not self.taken and not self.earlier:
            self.vocab_size = own.spec.vocab_size
        self.earlier[index] = own
        try:
            starts.check(begins, wanted or own.spec.model, self.vocab_size)
        except UserError as exc:
            raise self.written.wrong(index, "start", f"not the recipe's model; {exc}") from exc
        return wanted or own.spec.model

    def begins(self, index: int, config: StageConfig) -> Start | None:
        """What the stage's runs start from, other than the stage before."""
        if index in self.taken:
            return Start(folder=self.taken[index])
        if index not in self.earlier:
            return None
        optimiser = self.optimiser(index, config, goes_on=False)
        return replace(self.earlier[index].start, optimiser=optimiser)

    def goes_on(self, index: int, config: StageConfig) -> bool:
        """Whether a stage starts from the one before it.

        Raises:
            UserError: there is none before it, or it needs a model and starts from scratch.
        """
        start = config.start or ("previous" if index else "scratch")
        if start == "previous" and not index:
            raise self.written.wrong(index, "start", "no stage is before the first")
        if start == "scratch" and config.kind != "pretrain":
            raise self.written.wrong(index, "start", f"{config.kind} goes on from a model")
        return start == "previous"

    def rate_before(self, index: int, before: Stage | None) -> float:
        """The learning rate that the stage before ends at."""
        if before is None and index in self.earlier and self.earlier[index].rate:
            return self.earlier[index].rate
        if before is None:
            raise self.written.wrong(
                index, "train.lr",
                "a model from elsewhere does not say where its learning rate ended, and a run may "
                "have ended at 0; say what this stage begins with",
            )  # fmt: skip
        plans = [v.plan for v in before.variants]
        rates = sorted({learning_rate(plan, plan.steps - 1) for plan in plans})
        if len(rates) > 1:
            raise self.written.wrong(
                index, "train.lr",
                f"the runs of stage '{before.config.name}' end at different learning rates "
                f"({', '.join(f'{r:.3g}' for r in rates)}); say what this one begins with",
            )  # fmt: skip
        if not rates[0]:
            raise self.written.wrong(
                index, "train.lr",
                f"stage '{before.config.name}' ends at a learning rate of 0; say what this one "
                "begins with",
            )  # fmt: skip
        return rates[0]

    def base_folder(self) -> Path | None:
        """The model from elsewhere that is gone on from, whose chat template is its own."""
        begins = [Start(folder=taken) for taken in self.taken.values()]
        begins += [own.start for own in self.earlier.values() if not own.start.step]
        return starts.model_folder(self.written.study.layout, begins[0]) if begins else None


def _orders(first: int, count: int) -> tuple[int, ...]:
    """Seeds of runs that differ in their data order alone."""
    return tuple(first + 1000 * i for i in range(count))
