"""Long tables, parquet, directions: whatever form a swarm comes in, it is the same swarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regmix import imports
from regmix.config import ObjectiveConfig
from regmix.direction import of_name, sign
from regmix.errors import UserError
from regmix.intake import create_for_import
from regmix.objective import Objective
from regmix.study import Study

DATA = Path(__file__).parent / "data"


@pytest.fixture
def long_weights() -> pd.DataFrame:
    return pd.read_csv(DATA / "long_weights.csv", dtype=str)


@pytest.fixture
def long_metrics() -> pd.DataFrame:
    return pd.read_csv(DATA / "long_metrics.csv", dtype=str)


def wide() -> tuple[pd.DataFrame, pd.DataFrame]:
    weights = pd.read_csv(DATA / "weights.csv").set_index("run")
    long = pd.read_csv(DATA / "long_metrics.csv")
    return weights, long.pivot(index="run", columns="metric", values="value")


def test_long_wide_csv_and_parquet_are_one_import(tmp_path: Path) -> None:
    weights, values = wide()
    stamps = set()
    for suffix in ("csv", "tsv", "csv.gz", "parquet"):
        for name, frame in (("w", weights), ("m", values)):
            path = tmp_path / f"{name}.{suffix}"
            if suffix == "parquet":
                frame.to_parquet(path)
            else:
                frame.to_csv(path, sep="\t" if suffix == "tsv" else ",")
        found = imports.read(mixtures=tmp_path / f"w.{suffix}", metrics=tmp_path / f"m.{suffix}")
        stamps.add(found.stamp)
    for name in ("weights", "metrics"):
        long = pd.read_csv(DATA / f"long_{name}.csv")
        long.to_parquet(tmp_path / f"long_{name}.parquet", index=False)
    for folder, suffix in ((DATA, "csv"), (tmp_path, "parquet")):
        found = imports.read(
            mixtures=folder / f"long_weights.{suffix}", metrics=folder / f"long_metrics.{suffix}"
        )
        stamps.add(found.stamp)
    assert len(stamps) == 1
    assert found.metrics["acc"].to_dict() == values["acc"].to_dict()


def test_ids_of_a_parquet_file_are_what_a_csv_would_have(tmp_path: Path) -> None:
    weights = pd.DataFrame({"index": [1, 20], "a": [0.5, 1.0], "b": [0.5, 0.0]})
    weights.to_parquet(tmp_path / "w.parquet", index=False)
    values = pd.DataFrame({"index": [20.0, 1.0], "loss": np.array([2.5, 2.1], dtype="float32")})
    values.to_parquet(tmp_path / "m.parquet", index=False)
    found = imports.read(mixtures=tmp_path / "w.parquet", metrics=tmp_path / "m.parquet")
    assert found.metrics["loss"].to_dict() == {"1": float(np.float32(2.1)), "20": 2.5}


def test_a_domain_that_is_not_listed_has_no_weight(
    tmp_path: Path, long_weights: pd.DataFrame
) -> None:
    only = long_weights[(long_weights["run"] != "mix-000") | (long_weights["domain"] == "web")]
    only = only.assign(weight=only["weight"].mask(only["run"] == "mix-000", "1"))
    only.to_csv(tmp_path / "w.csv", index=False)
    found = imports.read(mixtures=tmp_path / "w.csv", metrics=DATA / "long_metrics.csv")
    assert found.weights.loc["mix-000"].to_dict() == {"code": 0.0, "math": 0.0, "web": 1.0}
    assert any("2 rows of a run and a domain are absent and count as 0" in n for n in found.notes)


def test_columns_of_a_long_table_that_are_not_read_are_said(
    tmp_path: Path, long_metrics: pd.DataFrame
) -> None:
    long_metrics.assign(unit="nats", step="1000").to_csv(tmp_path / "m.csv", index=False)
    notes = imports.read(mixtures=DATA / "weights.csv", metrics=tmp_path / "m.csv").notes
    assert any(n.endswith("m.csv: columns that are not read: step, unit") for n in notes)


def spoiled(frame: pd.DataFrame, row: int, column: str, value: str) -> pd.DataFrame:
    changed = frame.copy()
    changed.loc[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: spoiled(w, 4, "run", ""), r"w\.csv: row 5: 'run' is empty"),
        (lambda w: spoiled(w, 4, "domain", " "), r"w\.csv: row 5: 'domain' is empty"),
        (lambda w: pd.concat([w, w.iloc[[7]]]), r"w\.csv: run mix-002 has domain 'code' twice"),
        (lambda w: spoiled(w, 0, "weight", "-0.235"),
         r"w\.csv: run mix-000: weight of 'web' is negative \(-0\.235\)"),
        (lambda w: spoiled(w, 0, "weight", "NaN"),
         r"w\.csv: run mix-000: weight of 'web' is missing or not finite"),
        (lambda w: spoiled(w, 0, "weight", "much"),
         r"w\.csv: column 'web', run mix-000: 'much' is not a number"),
        (lambda w: w[(w["run"] != "mix-001") | (w["domain"] != "web")],
         r"w\.csv: weights of run mix-001 sum to 0\.7\d+, not 1"),
        (lambda w: w[w["run"] != "mix-001"],
         r"1 runs are in .*long_metrics\.csv but not in .*w\.csv: mix-001"),
        (lambda w: w.rename(columns={"run": "experiment"}), r"w\.csv: no id column \(one of"),
    ],
)  # fmt: skip
def test_faulty_long_weights(
    tmp_path: Path,
    long_weights: pd.DataFrame,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    change(long_weights).to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(UserError, match=message):
        imports.read(mixtures=tmp_path / "w.csv", metrics=DATA / "long_metrics.csv")


def test_a_metric_that_a_long_table_lacks(tmp_path: Path, long_metrics: pd.DataFrame) -> None:
    long_metrics.drop(index=2).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(UserError, match=r"1 runs are without a finite value .*: mix-000 \(acc\)"):
        imports.read(mixtures=DATA / "weights.csv", metrics=tmp_path / "m.csv")


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "w.parquet").write_text("run,web\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"w\.parquet: not a parquet table"):
        imports.read(mixtures=tmp_path / "w.parquet", metrics=DATA / "long_metrics.csv")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "import: no file given; give --mixtures and --metrics, or --runs"),
        ({"mixtures": DATA / "weights.csv"}, "import: --mixtures given; give"),
        ({"mixtures": DATA / "weights.csv", "runs": DATA / "wandb_runs.csv"},
         "import: --mixtures and --runs given"),
    ],
)  # fmt: skip
def test_sources_that_do_not_go_together(given: dict[str, Path], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imports.read(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("arc_easy/acc", "higher"), ("arc_easy/acc_norm", "higher"), ("eval/Accuracy", "higher"),
        ("gsm8k/exact_match/strict-match", "higher"), ("drop/f1", "higher"),
        ("humaneval/pass@1", "higher"), ("truthfulqa_gen/bleu_max", "higher"),
        ("xsum/rougeL", "higher"), ("mmlu:choice_prob_norm", "higher"),
        ("eval/code_loss", "lower"), ("pile_val_loss", "lower"), ("mmlu/bpb", "lower"),
        ("wikitext/word_perplexity", "lower"), ("x/bits_per_byte", "lower"), ("x/ppl", "lower"),
        ("x/brier_score", "lower"), ("asr/wer", "lower"), ("acc_tasks/loss", "lower"),
        ("bpb/score", "lower"), ("bpb/acc", "lower"),
        ("arc_easy:rc::olmes", None), ("the_pile_arxiv", None), ("vacc", None), ("glossary", None),
    ],
)  # fmt: skip
def test_what_a_name_tells(name: str, told: str | None) -> None:
    assert of_name(name) == told


def imported(tmp_path: Path, values: pd.DataFrame, folder: str = "study") -> Study:
    paths = [tmp_path / "w.csv", tmp_path / "m.csv"]
    wide()[0].to_csv(paths[0])
    values.to_csv(paths[1])
    return create_for_import(tmp_path / folder, imports.read_csvs(*paths), paths)


def test_an_imported_accuracy_is_never_minimised(tmp_path: Path) -> None:
    weights, _ = wide()
    values = pd.DataFrame(
        dict.fromkeys(("t/acc", "t/exact_match", "t/mcc", "t/bleu"), weights["math"])
    )
    study = imported(tmp_path, values.assign(**{"t/brier_score": 1 - weights["math"]}))
    given = study.config.objective
    assert given.directions == {}, "their names tell"
    data = study.observations()
    objective = Objective.from_config(given, data.metric_names)
    total = objective.value({m: data.y(m) for m in objective.metrics})
    assert np.corrcoef(total, data.weights["math"])[0, 1] == pytest.approx(-1)


def test_an_existing_study_that_would_minimise_an_accuracy_is_refused(tmp_path: Path) -> None:
    weights, values = wide()
    study = imported(tmp_path, values)
    more = values.rename(index="x{}".format).assign(puzzles=0.5)
    paths = [tmp_path / "w2.csv", tmp_path / "m2.csv"]
    weights.rename(index="x{}".format).to_csv(paths[0])
    more.to_csv(paths[1])
    runs = replace(imports.read_csvs(*paths), directions={"puzzles": "higher"})
    with pytest.raises(
        UserError,
        match=r"study\.yaml: the objective .*`objective: \{directions: \{puzzles: higher\}\}`",
    ):
        create_for_import(study.layout.root, runs, paths)
    with study.layout.config.open("a", encoding="utf-8") as stream:
        stream.write("objective: {directions: {puzzles: lower}}\n")
    create_for_import(study.layout.root, runs, paths)


def test_names_that_tell_count_as_the_objective_counts_them() -> None:
    for word in ("acc", "acc_norm", "accuracy", "exact_match", "f1", "choice_prob_norm", "pass@1"):
        assert of_name(f"task/{word}") == "higher"
        assert sign(f"task/{word}", ObjectiveConfig().directions) == -1
