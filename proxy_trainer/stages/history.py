"""What the final model of a recipe went through: the stages and, over all of them, each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy_trainer.models import card as cards
from proxy_trainer.stages import metrics
from proxy_trainer.stages.metrics import CHAT, of_text
from proxy_trainer.stages.plan import Stage
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.records import RunRecord
from regmix.runs import RunSpec


@dataclass(frozen=True)
class Passed:
    """A stage, and the run of it that the next one went on from."""

    stage: Stage
    spec: RunSpec
    metric: str
    metrics: Mapping[str, float]


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
    final = of_final(passed)
    stages, tokens, epochs = [], dict[str, int](), dict[str, float]()
    for own in final:
        read = _read(study, own.spec)
        for source, (count, share) in read.items():
            tokens[source] = tokens.get(source, 0) + count
            epochs[source] = epochs.get(source, 0.0) + share
        stages.append(_stage(own, read))
    order = sorted(epochs, key=lambda source: -epochs[source])
    story = cards.Story(
        stages=stages,
        sources=[(source, f"{tokens[source]:,}", f"{epochs[source]:.3g}") for source in order],
        mixtures={
            own.stage.config.name: own.spec.mixture.as_dict() for own in final if not own.spec.chat
        },
        data=DataManifest.load(study.manifest),
        asked={name: value for name, value in final[-1].metrics.items() if not of_text(name)},
    )
    return cards.with_stages(card, story)


def _stage(own: Passed, read: Mapping[str, tuple[int, float]]) -> Sequence[object]:
    runs = f", the average of {len(own.spec.merge)}" if own.spec.merge else ""
    return (
        own.stage.config.name,
        own.stage.config.kind,
        ", ".join(read) if own.spec.chat else f"mixture {own.spec.mixture.id}",
        f"{sum(count for count, _ in read.values()):,}",
        f"{own.spec.plan.lr:g}",
        own.spec.run_id + runs,
        f"{own.metric} {metrics.value(own.metrics, own.metric):.6g}",
    )


def _read(study: StudyLayout, spec: RunSpec) -> dict[str, tuple[int, float]]:
    """Tokens and epochs of every source that a run has read, as it was when it ended."""
    run_id = spec.merge[0] if spec.merge else spec.run_id
    run = study.run(run_id)
    before = CHAT if spec.chat else ""
    return {
        before + own["domain"]: (int(own["tokens"]), float(own["epochs"]))
        for own in RunRecord(run, RunSpec.load(run.spec)).result()["domains"]
    }
