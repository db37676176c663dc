"""What the final model of a recipe went through: the stages and, over all of them, each source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy_trainer.models import card as cards
from proxy_trainer.stages.metrics import CHAT
from proxy_trainer.stages.resolve import Stage
from regmix.layout import StudyLayout
from regmix.records import RunRecord
from regmix.runs import RunSpec


@dataclass(frozen=True)
class Passed:
    """A stage, and the run of it that the next one went on from."""

    stage: Stage
    spec: RunSpec
    metric: str
    value: float


def of_final(passed: Sequence[Passed]) -> list[Passed]:
    """The stages that the final model went through: the last that began anew, and those after."""
    found: list[Passed] = []
    for own in passed:
        found = [*found, own] if own.stage.goes_on else [own]
    return found


def with_stages(card: str, study: StudyLayout, passed: Sequence[Passed]) -> str:
    """A model's card with a table of the stages and one of what they read, before its last run's.

    Tokens and epochs are what runs really read. Runs that are averaged read as much each, and the
    model has seen the text of all; figures are those of the first.
    """
    stages, tokens, epochs = [], dict[str, int](), dict[str, float]()
    for own in of_final(passed):
        read = _read(study, own.spec)
        for source, (count, share) in read.items():
            tokens[source] = tokens.get(source, 0) + count
            epochs[source] = epochs.get(source, 0.0) + share
        data = ", ".join(read) if own.spec.chat else f"mixture {own.spec.mixture.id}"
        runs = f", the average of {len(own.spec.merge)}" if own.spec.merge else ""
        stages.append(
            (
                own.stage.config.name,
                own.stage.config.kind,
                data,
                f"{sum(count for count, _ in read.values()):,}",
                f"{own.spec.plan.lr:g}",
                own.spec.run_id + runs,
                f"{own.metric} {own.value:.6g}",
            )
        )
    order = sorted(epochs, key=lambda source: -epochs[source])
    sources = [(source, f"{tokens[source]:,}", f"{epochs[source]:.3g}") for source in order]
    return cards.with_stages(card, stages, sources)


def _read(study: StudyLayout, spec: RunSpec) -> dict[str, tuple[int, float]]:
    """Tokens and epochs of every source that a run has read, as it was when it ended."""
    run_id = spec.merge[0] if spec.merge else spec.run_id
    run = study.run(run_id)
    before = CHAT if spec.chat else ""
    return {
        before + own["domain"]: (int(own["tokens"]), float(own["epochs"]))
        for own in RunRecord(run, RunSpec.load(run.spec)).result()["domains"]
    }
