"""Run tables of Weights & Biases: finished runs alone, weights and metrics told apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from regmix import imports
from regmix.errors import UserError
from regmix.imports import Choice

DATA = Path(__file__).parent / "data"
EVAL = Choice(metrics=("eval/*", "!eval/samples"))


@pytest.fixture
def rows() -> pd.DataFrame:
    """The export as it is; every cell as text."""
    return pd.read_csv(DATA / "wandb_runs.csv", dtype=str, keep_default_na=False)


def write(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv"


def test_an_export_needs_no_more_than_its_metrics() -> None:
    found = imports.read(runs=DATA / "wandb_runs.csv", choice=EVAL)
    raw = pd.read_csv(DATA / "wandb_runs.csv", dtype={"ID": str}).set_index("ID")
    raw = raw[raw["State"] == "finished"].sort_index()
    assert list(found.weights.index) == list(raw.index)
    assert list(found.weights) == ["code", "math", "web"]
    assert list(found.metrics) == ["acc", "loss_code", "loss_web"]
    assert found.metrics["acc"].tolist() == raw["eval/acc"].tolist()
    sums = raw[[f"config.mixture.{d}" for d in ("code", "math", "web")]].sum(axis=1)
    expected = raw["config.mixture.web"] / sums
    assert found.weights["web"].tolist() == pytest.approx(expected.tolist(), abs=1e-15)
    assert found.directions == {"acc": "higher", "loss_code": "lower", "loss_web": "lower"}


def test_runs_that_did_not_finish_are_left_out_and_named() -> None:
    notes = imports.read(runs=DATA / "wandb_runs.csv", choice=EVAL).notes
    said = next(n for n in notes if "did not finish" in n)
    assert said == "left out 2 runs that did not finish: 9zcrash0 (crashed), 9zrun001 (running)"
    assert any(n.startswith("read as weights: config.mixture.code,") for n in notes)


def test_unfinished_runs_are_no_error_on_either_side_of_two_files(tmp_path: Path) -> None:
    weights = pd.read_csv(DATA / "weights.csv", dtype=str).rename(columns={"run": "Name"})
    weights.loc[len(weights)] = ["mix-012", "1", "0", "0"]
    weights.to_csv(tmp_path / "w.csv", index=False)
    rows = pd.read_csv(DATA / "wandb_runs.csv", dtype=str, keep_default_na=False)
    # Started again under its name, a run stands in the table twice; its crash counts for nothing.
    path = write(tmp_path, rows[rows["State"] != "crashed"].drop(columns="ID"))
    found = imports.read(mixtures=tmp_path / "w.csv", metrics=path, choice=EVAL)
    assert list(found.weights.index) == [f"mix-{i:03d}" for i in range(12)]
    assert "left out 1 runs that did not finish: mix-012 (running)" in found.notes


def test_weights_are_named_by_a_pattern(tmp_path: Path, rows: pd.DataFrame) -> None:
    renamed = rows.rename(
        columns={f"config.mixture.{d}": f"config.data.{n}" for d, n in
                 {"web": "web.high", "code": "web.low", "math": "books"}.items()}
    )  # fmt: skip
    path = write(tmp_path, renamed)
    with pytest.raises(UserError, match=r"no group of columns whose rows sum to 1.*--weights"):
        imports.read(runs=path, choice=EVAL)
    found = imports.read(runs=path, choice=Choice(("config.data.*",), EVAL.metrics))
    assert list(found.weights) == ["books", "web.high", "web.low"]
    # A domain whose name begins like the pattern's start keeps its name whole.
    found = imports.read(
        runs=path, choice=Choice(("config.data.w*", "config.data.b*"), EVAL.metrics)
    )
    assert list(found.weights) == ["books", "web.high", "web.low"]


def test_the_same_mixture_in_config_and_summary_is_one(tmp_path: Path, rows: pd.DataFrame) -> None:
    for domain in ("web", "code", "math"):
        rows[f"mixture/{domain}"] = rows[f"config.mixture.{domain}"]
    assert list(imports.read(runs=write(tmp_path, rows), choice=EVAL).weights) == [
        "code", "math", "web"
    ]  # fmt: skip
    rows["mixture/web"] = rows["config.mixture.code"]
    rows["mixture/code"] = rows["config.mixture.web"]
    with pytest.raises(
        UserError, match=r"several groups .*\(config\.mixture\.\*, mixture/\*\); name the weights"
    ):
        imports.read(runs=write(tmp_path, rows), choice=EVAL)


def test_metrics_are_those_with_a_metrics_prefix(tmp_path: Path, rows: pd.DataFrame) -> None:
    with pytest.raises(
        UserError, match=r"runs\.csv: column 'eval/samples', run .*\"table-file\".* is not a number"
    ):
        imports.read(runs=write(tmp_path, rows))
    plain = rows.drop(columns="eval/samples")
    assert list(imports.read(runs=write(tmp_path, plain)).metrics) == [
        "acc", "loss_code", "loss_web"
    ]  # fmt: skip
    none = plain.rename(columns=lambda c: c.replace("eval/", "quality."))
    with pytest.raises(
        UserError, match=r"no column begins with .*--select 'eval/\*'; groups .*quality\.\*"
    ):
        imports.read(runs=write(tmp_path, none))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(metrics=("evl/*",)), r"runs\.csv: --select 'evl/\*' names no column; near .*eval"),
        (Choice(weights=("config.mix.*",)), r"--weights 'config\.mix\.\*' names no column; near"),
        (Choice(metrics=("eval/acc", "!eval/*")), r"--select eval/acc !eval/\* leaves no column"),
        (Choice(("config.mixture.*",), ("config.mixture.web",)),
         r"column 'config\.mixture\.web' is chosen as a weight and as a metric"),
        (Choice(("config.mixture.web", "config.mixture.code"), EVAL.metrics),
         r"runs\.csv: weights of run .* sum to 0\.\d+, not 1"),
        (Choice(("config.*",), EVAL.metrics), r"column 'config.optimizer.name', run .*'adamw'"),
        (Choice(metrics=("_step", "eval/acc", "config.seed")), None),
    ],
)  # fmt: skip
def test_patterns_that_cannot_be_meant(
    tmp_path: Path, rows: pd.DataFrame, choice: Choice, message: str | None
) -> None:
    path = write(tmp_path, rows)
    if message is None:
        assert list(imports.read(runs=path, choice=choice).metrics) == [
            "_step", "config.seed", "eval/acc"
        ]  # fmt: skip
        return
    with pytest.raises(UserError, match=message):
        imports.read(runs=path, choice=choice)


def test_no_finished_run_is_an_error(tmp_path: Path, rows: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="none of 14 runs has the State 'finished'"):
        imports.read(runs=write(tmp_path, rows.assign(State="failed")), choice=EVAL)


def test_a_metric_that_a_finished_run_lacks(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.loc[0, "eval/acc"] = "NaN"
    path, run = write(tmp_path, rows), rows.loc[0, "ID"]
    with pytest.raises(
        UserError, match=rf"1 runs are without a finite .*: {run} \(acc\) \(--allow-missing"
    ):
        imports.read(runs=path, choice=EVAL)
    found = imports.read(runs=path, choice=EVAL, allow_missing=True)
    assert len(found.weights) == 11
    assert any(note.endswith(f": {run} (acc)") for note in found.notes)


def test_whole_dictionaries_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        UserError, match=r"wandb_dictionaries\.csv: column '(config|summary)' holds whole "
        r"dictionaries; flatten them .*json_normalize",
    ):  # fmt: skip
        imports.read(runs=DATA / "wandb_dictionaries.csv")


def test_a_table_of_ones_own_needs_only_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("run,mix/a,mix/b,loss,acc\nx,0.25,0.75,2,0.5\ny,1,0,3,0.25\n", "utf-8")
    found = imports.read(runs=path)
    assert found.weights.loc["x"].to_dict() == {"a": 0.25, "b": 0.75}
    assert found.metrics.loc["y"].to_dict() == {"acc": 0.25, "loss": 3.0}
    path.write_text("run,mix/a,mix/b\nx,0.25,0.75\ny,1,0\n", "utf-8")
    with pytest.raises(UserError, match=r"own\.csv: no column beside ids and weights"):
        imports.read(runs=path)
