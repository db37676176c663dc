"""What a recipe will do and has done, as tables for people."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pandas as pd

from proxy_trainer.stages import ledger
from proxy_trainer.stages.execute import Ended
from proxy_trainer.stages.metrics import of_text
from proxy_trainer.stages.plan import Recipe, Stage
from regmix.quantities import amount, flops
from regmix.recipe import StartRun


def plan(recipe: Recipe) -> pd.DataFrame:
    """A row a stage: what each of its runs trains, and how many there are."""
    rows = []
    for stage in recipe.stages:
        spec = stage.variants[0]
        rates = sorted({v.plan.lr for v in stage.variants})
        rows.append(
            {
                "stage": stage.config.name,
                "kind": stage.config.kind,
                "from": _origin(stage),
                "optimiser": "goes on" if stage.optimiser else "fresh",
                "runs": len(stage.variants),
                "steps": spec.plan.steps,
                "tokens": amount(spec.tokens),
                "FLOPs": flops(spec.flops * len(stage.variants)),
                "lr": ", ".join(f"{r:.3g}" for r in rates),
                "schedule": spec.plan.schedule,
            }
        )
    return pd.DataFrame(rows)


def _origin(stage: Stage) -> str:
    if stage.goes_on:
        return "the stage before"
    start = stage.config.start
    if not isinstance(start, StartRun):
        return start or "scratch"
    return f"run {start.run}" + (f", step {start.step}" if start.step else "")


def epochs(recipe: Recipe) -> pd.DataFrame:
    """A row a source: its epochs in every stage that the final model goes through, and in all."""
    uses = recipe.uses()
    stages = list(dict.fromkeys(u.stage for u in uses))
    rows = []
    for source, own in ledger.by_source(uses).items():
        each = {
            stage: round(ledger.epochs([u for u in own if u.stage == stage]), 3) for stage in stages
        }
        rows.append({"epochs of": source, **each, "all stages": round(ledger.epochs(own), 3)})
    return pd.DataFrame(rows)


def conversations(recipe: Recipe) -> pd.DataFrame:
    """A row a source of conversations: what is read of it, and what is lost and why.

    Empty where a recipe has none.
    """
    sets = [(stage.config.name, stage.chat) for stage in recipe.stages]
    rows = []
    for used, manifest in (*sets, ("held out", recipe.held_out)):
        for own in manifest.sources if manifest is not None else ():
            assert manifest is not None  # there are none without it
            rows.append(
                {
                    "conversations": own.name,
                    "for": used,
                    "kept": own.conversations,
                    "too long, dropped": own.dropped,
                    "truncated": own.truncated,
                    "tokens": amount(own.tokens),
                    "tokens lost": amount(own.cut_tokens),
                    "with loss": f"{own.trained_tokens / own.tokens:.0%}",
                    "context": manifest.context,
                    "template": Path(manifest.template).name,
                }
            )
    return pd.DataFrame(rows)


def notes(recipe: Recipe) -> list[str]:
    """What to know of a recipe before it starts."""
    return [
        f"stage '{stage.config.name}': {Path(stage.chat.template).name} ends the assistant's turns "
        "with no token of its own; a model that is trained on it does not stop by itself"
        for stage in recipe.stages
        if stage.chat is not None and not stage.chat.turn_ends
    ]


def runs(ended: Ended) -> pd.DataFrame:
    """A row a run of a stage, the best first, and what was chosen."""
    rows = [
        {
            "run": t.spec.run_id,
            "lr": f"{t.spec.plan.lr:.3g}",
            "seed": t.spec.seed,
            ended.metric: round(ended.value(t), 5),
            "": "chosen" if t == ended.chosen else t.failure,
        }
        for t in ended.tried
    ]
    if ended.chosen not in ended.tried:
        rows.append(
            {
                "run": ended.chosen.spec.run_id,
                "lr": "",
                "seed": "",
                ended.metric: round(ended.value(ended.chosen), 5),
                "": f"the average of {len(ended.tried)}, chosen",
            }
        )
    return pd.DataFrame(rows).sort_values(ended.metric, kind="stable")


def source(ended: Ended) -> pd.DataFrame:
    """A row a metric: what a micro-anneal came to with its source, without it, and by how much.

    Means over the pairs of runs that differ in the source alone; the standard error is that of the
    difference, where there is more than one pair.
    """
    asked = ended.stage.variants[0].mixture
    runs: dict[bool, dict[tuple[int, float], dict[str, float]]] = {False: {}, True: {}}
    for t in ended.tried:
        if not t.failure:
            runs[t.spec.mixture != asked][t.spec.seed, t.spec.plan.lr] = t.metrics
    pairs = sorted(runs[False].keys() & runs[True].keys())
    rows = []
    for name in runs[False][pairs[0]] if pairs else ():
        with_it, without = ([runs[base][pair][name] for pair in pairs] for base in (False, True))
        change = [a - b for a, b in zip(with_it, without, strict=True)]
        error = statistics.stdev(change) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
        rows.append(
            {
                "metric": name,
                "with the source": round(statistics.fmean(with_it), 4),
                "without": round(statistics.fmean(without), 4),
                "difference": round(statistics.fmean(change), 4),
                "standard error": round(error, 4),
            }
        )
    return pd.DataFrame(rows)


def metrics(ended: list[Ended]) -> pd.DataFrame:
    """A row a metric, a column a stage: what the chosen run of each came to.

    Of tasks that are asked, those over all questions; their groups are in the store.
    """
    names = [n for n in dict.fromkeys(n for e in ended for n in e.chosen.metrics) if _whole(n)]
    rows = []
    for name in names:
        values = {
            e.stage.config.name: round(e.chosen.metrics.get(name, math.nan), 4) for e in ended
        }
        rows.append({"metric": name, **values})
    return pd.DataFrame(rows)


def _whole(metric: str) -> bool:
    """Whether a metric is not one of a task's groups, which have the group in their name."""
    return of_text(metric) or metric.count("/") < 2
