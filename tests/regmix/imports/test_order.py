"""The order of rows and columns means nothing, in any format: the same import, the same fit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix import imports
from regmix.config import FitConfig
from regmix.imports import Choice, ImportedRuns
from regmix.intake import create_for_import

DATA = Path(__file__).parent / "data"
EVAL = Choice(metrics=("eval/*", "!eval/samples"))
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder for every example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def shuffled(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return frame.iloc[rng.permutation(len(frame)), rng.permutation(frame.shape[1])]


def text(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / name, dtype=str, keep_default_na=False)


def same(one: ImportedRuns, other: ImportedRuns) -> None:
    pd.testing.assert_frame_equal(one.weights, other.weights, check_exact=True)
    pd.testing.assert_frame_equal(one.metrics, other.metrics, check_exact=True)
    assert one.stamp == other.stamp
    assert one.directions == other.directions
    assert list(one.directions) == list(other.directions)


WIDE = imports.read(mixtures=DATA / "weights.csv", metrics=DATA / "long_metrics.csv")
WANDB = imports.read(runs=DATA / "wandb_runs.csv", choice=EVAL)
HARNESS = imports.read(mixtures=DATA / "weights.csv", metrics=DATA / "lm_eval")


@few
@given(SEEDS, SEEDS, st.sampled_from(["csv", "parquet"]))
def test_wide_tables(one: int, other: int, suffix: str) -> None:
    values = text("long_metrics.csv").pivot(index="run", columns="metric", values="value")
    with folder() as place:
        paths = [place / f"w.{suffix}", place / f"m.{suffix}"]
        for frame, seed, path in zip(
            (text("weights.csv"), values.reset_index()), (one, other), paths, strict=True
        ):
            changed = shuffled(frame, seed)
            if suffix == "csv":
                changed.to_csv(path, index=False)
            else:
                numbers = {c: float for c in changed if c != "run"}
                changed.astype(numbers).to_parquet(path, index=False)
        same(imports.read(mixtures=paths[0], metrics=paths[1]), WIDE)


@few
@given(SEEDS, SEEDS)
def test_long_tables(one: int, other: int) -> None:
    with folder() as place:
        shuffled(text("long_weights.csv"), one).to_csv(place / "w.csv", index=False)
        shuffled(text("long_metrics.csv"), other).to_csv(place / "m.csv", index=False)
        found = imports.read(mixtures=place / "w.csv", metrics=place / "m.csv")
    same(found, WIDE)
    assert found.notes == WIDE.notes


@few
@given(SEEDS)
def test_run_tables_of_wandb(seed: int) -> None:
    with folder() as place:
        shuffled(text("wandb_runs.csv"), seed).to_csv(place / "runs.csv", index=False)
        found = imports.read(runs=place / "runs.csv", choice=EVAL)
    same(found, WANDB)
    assert found.notes == WANDB.notes


def _reordered(value: Any, rng: np.random.Generator) -> Any:
    if not isinstance(value, dict):
        return value
    keys = [str(k) for k in rng.permutation(list(value))]
    return {k: _reordered(value[k], rng) for k in keys}


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_results_of_the_harness(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with folder() as place:
        paths = sorted((DATA / "lm_eval").rglob("results_*.json"))
        for number in rng.permutation(len(paths)):
            copy = place / paths[number].relative_to(DATA)
            copy.parent.mkdir(parents=True, exist_ok=True)
            content = json.loads(paths[number].read_text("utf-8"))
            copy.write_text(json.dumps(_reordered(content, rng)), encoding="utf-8")
        shuffled(text("weights.csv"), seed).to_csv(place / "w.csv", index=False)
        found = imports.read(mixtures=place / "w.csv", metrics=place / "lm_eval")
    same(found, HARNESS)
    assert found.errors is not None
    assert HARNESS.errors is not None
    pd.testing.assert_frame_equal(found.errors, HARNESS.errors, check_exact=True)


def test_thirty_shuffled_runs_give_the_same_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.ones(4), 30)
    table = pd.DataFrame(weights, columns=[f"mixture/{d}" for d in ("web", "code", "math", "wiki")])
    table.insert(0, "Name", [f"run-{i}" for i in range(30)])
    table["State"] = "finished"
    table["eval/loss"] = 3 - weights[:, 1] ** 0.5 + 0.01 * rng.standard_normal(30)
    table["eval/acc"] = 0.3 + 0.2 * weights[:, 2] + 0.01 * rng.standard_normal(30)
    fits = []
    for number, frame in enumerate((table, shuffled(table, 1), shuffled(table, 2))):
        path = tmp_path / f"{number}.csv"
        frame.to_csv(path, index=False)
        study = create_for_import(tmp_path / f"s{number}", imports.read(runs=path), [path])
        fits.append(
            study.fit("loss", settings=FitConfig(regressor="gp", samples=1000, repeats=1, folds=3))
        )
    for other in fits[1:]:
        assert other.fit_id == fits[0].fit_id
        assert other.proposal == fits[0].proposal
        surrogates = [f.folder / "surrogate.json.gz" for f in (fits[0], other)]
        assert surrogates[0].read_bytes() == surrogates[1].read_bytes()
