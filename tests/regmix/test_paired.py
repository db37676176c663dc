"""Pairs of documents and questions: the error of a difference is that of drawing other ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from regmix import paired
from regmix.differences import MODELS, NOTHING, UNKNOWN
from regmix.errors import UserError
from regmix.files import write_json
from regmix.layout import RunLayout, StudyLayout
from regmix.paired import Items, Paired
from regmix.study import Study

SUBJECTS = {"algebra": 40, "law": 90, "virology": 15}


def documents(rng: np.random.Generator, count: int, gain: float = 0.0) -> list[pd.DataFrame]:
    """Two models on the same documents, hard and easy, short and long."""
    size = rng.integers(200, 3000, count)
    hard = rng.lognormal(0, 0.4, count)
    return [
        pd.DataFrame(
            {
                "metric": "bpb/web",
                "document": range(count),
                "nats": size * math.log(2) * (hard + shift + 0.05 * rng.standard_normal(count)),
                "bytes": size,
            }
        )
        for shift in (0.0, gain)
    ]


def questions(rng: np.random.Generator, gain: float = 0.0) -> list[pd.DataFrame]:
    """Two models on the same questions of three subjects."""
    subject = np.repeat(list(SUBJECTS), list(SUBJECTS.values()))
    hard = rng.standard_normal(len(subject))
    return [
        pd.DataFrame(
            {
                "question": [f"t.jsonl:{i}" for i in range(len(subject))],
                "subject": subject,
                "answer": 0,
                "shots": 5,
                "cut": 0,
                "logprob": [[-1.0]] * len(subject),
                "acc": (hard + shift + 0.5 * rng.standard_normal(len(subject)) > 0).astype(float),
                "bpb": 1 + 0.3 * hard + shift + 0.1 * rng.standard_normal(len(subject)),
            }
        )
        for shift in (0.0, gain)
    ]


def of_documents(table: pd.DataFrame) -> Items:
    return paired._of_documents(table)


def found_in(a: Items, b: Items, metric: str) -> Paired:
    found = paired.difference([a], [b], metric)
    assert isinstance(found, Paired), found
    return found


def test_documents_differ_as_a_bootstrap_over_pairs_says() -> None:
    rng = np.random.default_rng(0)
    a, b = documents(rng, 200, 0.02)
    found = found_in(of_documents(a), of_documents(b), "bpb/web")
    values = [t["nats"].sum() / math.log(2) / t["bytes"].sum() for t in (a, b)]
    assert found.difference == pytest.approx(values[1] - values[0])
    drawn = rng.integers(200, size=(4000, 200))
    nats = (b["nats"] - a["nats"]).to_numpy() / math.log(2)
    size = a["bytes"].to_numpy()
    boot = (nats[drawn].sum(1) / size[drawn].sum(1)).std()
    assert found.std_error == pytest.approx(boot, rel=0.08)
    alone = [math.sqrt(200 / 199 * float(((t["nats"] / math.log(2) - v * size) ** 2).sum()))
             / size.sum() for t, v in zip((a, b), values, strict=True)]  # fmt: skip
    assert math.hypot(*alone) > 5 * found.std_error, "what is hard about them is shared"


def test_questions_differ_as_a_paired_t_test_says_within_every_subject() -> None:
    a, b = questions(np.random.default_rng(1), 0.1)
    items = [paired._of_questions("t", q, {"hard": ["algebra", "law"]}) for q in (a, b)]
    apart = (b["bpb"] - a["bpb"]).groupby(a["subject"])
    found = found_in(*items, "t/bpb")
    assert found.difference == pytest.approx(apart.mean().mean())
    assert found.std_error == pytest.approx(math.sqrt((apart.var() / apart.size()).sum()) / 3)
    assert (found.items, found.freedom) == (145, 142)
    group = found_in(*items, "t/hard/bpb")
    assert group.difference == pytest.approx(apart.mean()[["algebra", "law"]].mean())
    micro = found_in(*items, "t/micro/bpb")
    test = stats.ttest_rel(b["bpb"], a["bpb"])
    assert micro.difference / micro.std_error == pytest.approx(test.statistic)
    assert micro.freedom == test.df


def test_collections_have_a_macro_and_a_micro_average() -> None:
    rng = np.random.default_rng(2)
    tables = []
    for one, two in zip(documents(rng, 30, 0.1), documents(rng, 12, 0.3), strict=True):
        parts = [one.assign(metric="c/one/bpb", source="one"),
                 two.assign(metric="c/two/bpb", source="two")]  # fmt: skip
        tables.append(paired._of_texts("c", pd.concat(parts, ignore_index=True)))
    one, two, macro, micro = (
        found_in(*tables, f"c/{m}bpb") for m in ("one/", "two/", "", "micro/")
    )
    assert macro.difference == pytest.approx((one.difference + two.difference) / 2)
    assert macro.std_error == pytest.approx(math.hypot(one.std_error, two.std_error) / 2)
    whole = [t["c/micro/bpb"] for t in tables]
    sums = [t["top"].sum() / t["bottom"].sum() for t in whole]
    assert micro.difference == pytest.approx(sums[1] - sums[0])
    assert (macro.items, micro.items) == (42, 42)


def test_intervals_of_differences_cover() -> None:
    """Over documents drawn anew: 95 % of intervals hold the difference on all such documents."""
    rng = np.random.default_rng(3)
    held = {"bpb/web": 0, "t/acc": 0}
    draws = 150
    for _ in range(draws):
        pairs = [
            ("bpb/web", [of_documents(t) for t in documents(rng, 25, 0.05)], 0.05),
            ("t/acc", [paired._of_questions("t", q, {}) for q in questions(rng)], 0.0),
        ]
        for metric, items, truth in pairs:
            found = found_in(items[0], items[1], metric)
            reach = float(stats.t.ppf(0.975, found.freedom)) * found.std_error
            held[metric] += abs(found.difference - truth) <= reach
    for metric, count in held.items():
        assert stats.binom.ppf(1e-3, draws, 0.95) <= count, metric
        assert count <= stats.binom.ppf(1 - 1e-4, draws, 0.975), metric


def test_several_runs_are_averaged_item_by_item() -> None:
    rng = np.random.default_rng(4)
    runs = [of_documents(documents(rng, 50)[0]) for _ in range(4)]
    size = runs[0]["bpb/web"]["bottom"]
    runs = [{"bpb/web": r["bpb/web"].assign(bottom=size)} for r in runs]
    found = paired.difference(runs[:2], runs[2:], "bpb/web")
    means = [{"bpb/web": (a["bpb/web"] + b["bpb/web"]) / 2} for a, b in (runs[:2], runs[2:])]
    assert found == paired.difference(means[:1], means[1:], "bpb/web")


def test_what_is_not_the_same_is_not_paired() -> None:
    rng = np.random.default_rng(5)
    a, b = (of_documents(t) for t in documents(rng, 20))
    shorter = {"bpb/web": b["bpb/web"].iloc[:-1]}
    longer = {"bpb/web": b["bpb/web"].assign(bottom=b["bpb/web"]["bottom"] + 1)}
    assert paired.difference([a], [{}], "bpb/web") == "what the items came to is not kept of all"
    assert "same items" in str(paired.difference([a], [shorter], "bpb/web"))
    assert "not the same" in str(paired.difference([a], [longer], "bpb/web"))
    one = {"bpb/web": a["bpb/web"].iloc[:1]}
    assert "tells nothing of others" in str(paired.difference([one], [one], "bpb/web"))


def test_degrees_of_freedom_are_those_of_what_matters() -> None:
    assert paired.together(0.1, 2, 1e-9, 500) == (pytest.approx(0.1), pytest.approx(2))
    assert paired.together(1e-9, 2, 0.1, 500) == (pytest.approx(0.1), pytest.approx(500))
    assert paired.together(math.nan, 0, 0.1, 500) == (0.1, 500)
    assert math.isnan(paired.together(math.nan, 0, 0.1, math.inf)[0])


def write_model(path: Path, items: dict[str, pd.DataFrame]) -> str:
    """As `regmix eval MODEL -o` does."""
    results = []
    for task, table in items.items():
        table.to_parquet(paired.beside(path, f"print-{task}"))
        metrics = [
            {"name": f"{task}/{m}", "split": "test", "std_error": 0.05,
             "value": float(table.groupby("subject")[m].mean().mean())}
            for m in ("acc", "bpb")
        ]  # fmt: skip
        metrics.append({"name": f"{task}/law/acc", "split": "subject", "std_error": None,
                        "value": 0.5})  # fmt: skip
        results.append({"task": task, "fingerprint": f"print-{task}", "metrics": metrics})
    write_json(path, {"model": "m", "results": results})
    return str(path)


def test_models_that_the_study_does_not_know_are_compared_by_their_files(
    trained: Study, tmp_path: Path
) -> None:
    rng = np.random.default_rng(6)
    a, b = questions(rng, -0.1)
    first = write_model(tmp_path / "a.json", {"mmlu": a})
    second = write_model(tmp_path / "b.json", {"mmlu": b})
    found = trained.compare(first, second)
    rows = found.frame.set_index("metric")
    assert set(rows.index) == {"mmlu/acc", "mmlu/bpb"}
    items = [paired._of_questions("mmlu", q, {}) for q in (a, b)]
    truth = found_in(*items, "mmlu/bpb")
    assert rows.loc["mmlu/bpb", "difference"] == pytest.approx(truth.difference)
    assert rows.loc["mmlu/bpb", "std_error_texts"] == pytest.approx(truth.std_error)
    assert rows.loc["mmlu/bpb", "items"] == 145
    assert rows.loc["mmlu/bpb", "verdict"] == "better" + MODELS
    assert math.isnan(rows.loc["mmlu/bpb", "p"])
    assert "nothing is said of seeds" in " ".join(found.notes)
    assert len(found.detected(second)) >= 1
    assert json.dumps(found.as_dict(), allow_nan=False)

    paired.beside(tmp_path / "b.json", "print-mmlu").unlink()
    assert set(trained.compare(first, second).frame["verdict"]) == {UNKNOWN}
    write_json(tmp_path / "c.json", {"results": 3})
    with pytest.raises(UserError, match="not what `regmix eval MODEL -o"):
        trained.compare(first, str(tmp_path / "c.json"))


def test_a_mixture_of_several_runs_is_compared_with_a_model_from_elsewhere(
    trained: Study, tmp_path: Path
) -> None:
    """Its runs are those of one size; nothing is said of seeds, which one model does not have."""
    q = questions(np.random.default_rng(9))[0]
    file = Path(write_model(tmp_path / "a.json", {"mmlu": q}))
    described = json.loads(file.read_text())
    described["results"][0]["metrics"].append(
        {"name": "bpb/web", "split": "test", "value": 1.0, "std_error": 0.01}
    )
    write_json(file, described)
    found = trained.compare("natural", str(file))
    assert found.frame["metric"].tolist() == ["bpb/web"]
    assert found.frame["seeds"].tolist() == [0]
    assert found.frame["verdict"].tolist() == [UNKNOWN]
    assert any("not compared" in note and "mmlu/acc" in note for note in found.notes)


def test_equal_models_are_told_apart_once_in_twenty_at_most(trained: Study, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    alarms = []
    for _ in range(60):
        names = [
            write_model(tmp_path / f"{n}.json", {"t": q})
            for n, q in zip("ab", questions(rng), strict=True)
        ]
        rows = trained.compare(*names).frame
        alarms.append(bool((rows["verdict"] != NOTHING).any()))
    assert sum(alarms) <= stats.binom.ppf(1 - 1e-3, 60, 0.05)


def test_runs_of_a_study_are_paired_by_their_documents(trained: Study, worker: Any) -> None:
    """Repeats give the seeds' part, pairs the texts'; what other texts could turn is said."""
    rng = np.random.default_rng(8)
    info, _, _ = trained.store.measured()
    names = info["name"].to_dict()
    tables = documents(rng, 40, -0.3)
    for run, name in names.items():
        table = tables[1] if name == "uniform" else tables[0]
        layout = RunLayout(trained.layout.run(run).root)
        layout.evals.mkdir(parents=True, exist_ok=True)
        table.to_parquet(layout.documents)
    before = trained.compare("natural", "uniform")
    row = before.frame.set_index("metric").loc["bpb/web"]
    truth = found_in(*(of_documents(t) for t in tables), "bpb/web")
    assert row["items"] == 40
    assert row["std_error_texts"] == pytest.approx(truth.std_error)
    assert row["std_error_any"] == pytest.approx(math.hypot(row["std_error"], truth.std_error))
    others = before.frame.set_index("metric").loc[["bpb/code", "bpb/math"], "items"]
    assert (others == 0).all()
    assert "not paired over documents or questions" in " ".join(before.notes)
    assert StudyLayout(trained.layout.root).runs.is_dir()
