"""What a recipe will do and has done, as tables for people."""

from __future__ import annotations

import math

import pandas as pd

from proxy_trainer.stages import ledger
from proxy_trainer.stages.execute import Ended
from proxy_trainer.stages.resolve import Recipe
from regmix.quantities import amount, flops


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
                "from": "the stage before" if stage.goes_on else "scratch",
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


def epochs(recipe: Recipe) -> pd.DataFrame:
    """A row a source: its epochs in every stage that the final model goes through, and in all."""
    uses = recipe.uses
    stages = list(dict.fromkeys(u.stage for u in uses))
    rows = []
    for source, total in ledger.totals(uses).items():
        own = {u.stage: u.epochs for u in uses if u.source == source}
        each = {f"{stage}": round(own.get(stage, 0.0), 3) for stage in stages}
        rows.append({"epochs of": source, **each, "all stages": round(total, 3)})
    return pd.DataFrame(rows)


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


def metrics(ended: list[Ended]) -> pd.DataFrame:
    """A row a metric, a column a stage: what the chosen run of each came to."""
    names = list(dict.fromkeys(name for e in ended for name in e.chosen.metrics))
    rows = []
    for name in names:
        values = {
            e.stage.config.name: round(e.chosen.metrics.get(name, math.nan), 4) for e in ended
        }
        rows.append({"metric": name, **values})
    return pd.DataFrame(rows)
