"""Results of the lm-evaluation-harness: a folder a run, the latest value of every task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from regmix import imports
from regmix.errors import UserError
from regmix.imports import Choice
from regmix.intake import create_for_import

DATA = Path(__file__).parent / "data"
OLDER = "results_2025-03-01T08-00-00.000001.json"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the harness's output folder."""
    return Path(shutil.copytree(DATA / "lm_eval", tmp_path / "lm_eval"))


def read(folder: Path, **more: Any) -> imports.ImportedRuns:
    return imports.read(mixtures=DATA / "weights.csv", metrics=folder, **more)


def change(folder: Path, run: int, edit: Callable[[dict[str, Any]], None]) -> Path:
    path = sorted((folder / f"__scratch__swarm__mix-{run:03d}__hf").glob("results_*.json"))[-1]
    content = json.loads(path.read_text("utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_tasks_and_metrics_by_run(results: Path) -> None:
    found = read(results)
    assert list(found.metrics) == [
        "arc_easy/acc", "arc_easy/acc_norm", "gsm8k/exact_match/flexible-extract",
        "gsm8k/exact_match/strict-match", "mmlu/acc", "wikitext/bits_per_byte",
        "wikitext/word_perplexity",
    ]  # fmt: skip
    assert list(found.metrics.index) == [f"mix-{i:03d}" for i in range(12)]
    for run in (0, 7, 11):
        path = next(results.glob(f"*mix-{run:03d}*/{'results_*.json'}"))
        raw = json.loads(path.read_text("utf-8"))["results"]
        row = found.metrics.loc[f"mix-{run:03d}"]
        assert row["arc_easy/acc"] == raw["arc_easy"]["acc,none"]
        assert row["gsm8k/exact_match/strict-match"] == raw["gsm8k"]["exact_match,strict-match"]
        assert row["wikitext/word_perplexity"] == raw["wikitext"]["word_perplexity,none"]


def test_run_ids_are_the_folders_names_or_what_sets_them_apart(results: Path) -> None:
    said = next(n for n in read(results).notes if "run ids are" in n)
    assert said.endswith("without '__scratch__swarm__' and '__hf'")
    for folder in list(results.iterdir()):
        folder.rename(results / folder.name.split("__")[-2])
    found = read(results)
    assert len(found.metrics) == 12
    assert not any("run ids are" in n for n in found.notes)


def test_folders_that_are_no_runs_are_named(results: Path) -> None:
    for number, folder in enumerate(list(results.iterdir())):
        folder.rename(results / f"model{number}")
    with pytest.raises(
        UserError, match=r"lm_eval: none of its folders \(model0, .*\) has the name of a run in "
        r".*weights\.csv \(mix-000, mix-001, mix-002 …\)",
    ):  # fmt: skip
        read(results)


def test_the_latest_evaluation_counts_and_the_older_is_reported(results: Path) -> None:
    found = read(results)
    assert found.metrics.loc["mix-004", "arc_easy/acc"] != 0.111
    assert found.metrics.loc["mix-004", "wikitext/word_perplexity"] != 99.0
    said = [n for n in found.notes if OLDER in n]
    assert len(said) == 1
    assert said[0].endswith("is older and was not read for arc_easy, wikitext")


def test_tasks_that_were_evaluated_apart_are_put_together(results: Path) -> None:
    def drop(content: dict[str, Any]) -> None:
        del content["results"]["wikitext"]

    change(results, 4, drop)
    found = read(results)
    assert found.metrics.loc["mix-004", "wikitext/word_perplexity"] == 99.0
    assert found.metrics.loc["mix-004", "arc_easy/acc"] != 0.111
    assert any(n.endswith(f"{OLDER} is older and was not read for arc_easy") for n in found.notes)


def test_standard_errors_are_kept_and_are_no_metrics(results: Path, tmp_path: Path) -> None:
    found = read(results)
    assert not any("stderr" in m for m in found.metrics)
    assert found.errors is not None
    assert set(found.errors["arc_easy/acc"]) == {0.0102}
    assert "wikitext/word_perplexity" not in found.errors, "N/A in every run"
    study = create_for_import(tmp_path / "study", found, [DATA / "weights.csv", results])
    assert len(study.observations().weights) == 12
    _, _, errors = study.store.measured()
    assert errors["mmlu/acc"].to_dict() == dict.fromkeys(found.metrics.index, 0.0036)
    assert errors["wikitext/word_perplexity"].isna().all()
    rows = study.noise().metrics
    assert rows.loc["arc_easy/acc", "eval"] == pytest.approx(0.0102)
    path = study.layout.imports / found.stamp / "errors.csv"
    kept = pd.read_csv(path, dtype={"run_id": str}).set_index("run_id")
    assert kept["mmlu/acc"].to_dict() == dict.fromkeys(found.metrics.index, 0.0036)
    path.write_text(path.read_text("utf-8").replace("0.0036", "0.9", 1), encoding="utf-8")
    with pytest.raises(UserError, match="its files were changed after the import"):
        study.observations()


def test_the_tasks_say_which_way_is_better(results: Path, tmp_path: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        content["results"]["calibration"] = {"brier_score,none": 0.3, "surprise,none": 1.5}
        content["results"]["chess"] = {"puzzles,none": 0.25}
        content["higher_is_better"]["calibration"] = {"brier_score": False, "surprise": False}
        content["higher_is_better"]["chess"] = {"puzzles": True}

    for run in range(12):
        change(results, run, add)
    found = read(results)
    assert found.directions["gsm8k/exact_match/strict-match"] == "higher"
    assert found.directions["calibration/brier_score"] == "lower"
    assert found.directions["chess/puzzles"] == "higher"
    study = create_for_import(tmp_path / "study", found, [results])
    # Only what the study would have counted the wrong way round stands in its file.
    assert study.config.objective.directions == {"chess/puzzles": "higher"}


def test_a_part_of_the_metrics_can_be_chosen(results: Path) -> None:
    found = read(results, choice=Choice(metrics=("*/acc", "!mmlu/*")))
    assert list(found.metrics) == ["arc_easy/acc"]
    with pytest.raises(UserError, match=r"lm_eval: --select 'mmlu/ac' names no column; near are: "):
        read(results, choice=Choice(metrics=("mmlu/ac",)))


def test_a_task_that_one_run_lacks(results: Path) -> None:
    change(results, 2, lambda c: c["results"].pop("gsm8k"))
    with pytest.raises(
        UserError, match=r"1 runs are without .*: mix-002 \(gsm8k/exact_match/flexible-extract\)"
    ):
        read(results)
    assert len(read(results, allow_missing=True).metrics) == 11


def test_an_evaluation_of_a_part_is_said(results: Path) -> None:
    path = change(results, 1, lambda c: c["config"].update(limit=10.0))
    assert any(
        n == f"run __scratch__swarm__mix-001__hf: {path.name} was evaluated on a part of each "
        "task only (limit 10.0)" for n in read(results).notes
    )  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("results"), r"results_.*\.json: no 'results' by task in it"),
        (lambda c: c["results"].update(mmlu=0.5), r"results_.*\.json: no 'results' by task"),
        (lambda c: c["results"]["mmlu"].update({"acc,none": "high"}),
         r"results_.*\.json: results\.mmlu\.acc,none: \"high\" is not a number"),
        (lambda c: c["results"]["mmlu"].update({"acc,none": float("nan")}),
         r"without a finite value .*: mix-003 \(mmlu/acc\)"),
    ],
)  # fmt: skip
def test_faulty_results(
    results: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(results, 3, edit)
    with pytest.raises(UserError, match=message):
        read(results)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", [1], r"config: \[1\] is not a mapping"),
        ("groups", 3, r"groups: 3 is not a mapping"),
        ("groups", {"all": 0.5}, r"groups\.all: 0\.5 is not a mapping of metrics"),
        ("higher_is_better", ["acc"], r"higher_is_better: \[\"acc\"\] is not a mapping"),
    ],
)
def test_a_section_of_another_type(results: Path, key: str, value: Any, message: str) -> None:
    path = change(results, 3, lambda c: c.update({key: value}))
    with pytest.raises(UserError, match=rf"{path.name}: {message}"):
        read(results)


def test_a_section_that_is_null_is_absent(results: Path) -> None:
    for key in ("config", "groups", "higher_is_better"):
        change(results, 3, lambda c, key=key: c.update({key: None}))  # type: ignore[misc]
    assert len(read(results).metrics) == 12


@pytest.mark.parametrize("runs", [range(12), [3]])
@pytest.mark.parametrize("entries", [{"acc": 0.3, "acc_stderr": 0.01}, {"alias": "mmlu"}, {}])
def test_results_without_a_metric_are_refused(
    results: Path, runs: list[int], entries: dict[str, Any]
) -> None:
    """Before 0.4, keys had no filter after a comma: they would be read as nothing."""
    names = [change(results, run, lambda c: c.update(results={"mmlu": entries})) for run in runs]
    next(results.glob(f"*/{OLDER}")).unlink()
    message = rf"{names[0].name}: no metric in it .*lm-evaluation-harness 0\.4 or later"
    for more in ({}, {"allow_missing": True}):
        with pytest.raises(UserError, match=message):
            read(results, **more)


def test_a_file_that_is_no_json(results: Path) -> None:
    path = next(results.glob("*mix-005*/results_*.json"))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{path.name}: not valid JSON"):
        read(results)


def test_an_empty_folder_and_two_of_one_name(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no results_\*\.json in it or below"):
        read(tmp_path / "empty")
    name = "__scratch__swarm__mix-000__hf"
    shutil.copytree(results / name, results / "again" / name)
    with pytest.raises(UserError, match=rf"two folders are called '{name}'.*rename one after its"):
        read(results)
