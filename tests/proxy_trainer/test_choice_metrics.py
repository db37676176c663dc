"""Metrics of multiple choice by hand, by scipy, and by drawing questions anew."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from proxy_trainer.data.shards import IntArray
from proxy_trainer.evals import choice_metrics, multiple_choice
from proxy_trainer.evals.choice import Answers
from proxy_trainer.evals.choice_metrics import METRICS
from proxy_trainer.evals.prompts import Prompt, Prompts
from proxy_trainer.evals.questions import Question, Questions, Subject
from proxy_trainer.evals.results import Result
from regmix.direction import of_name
from regmix.errors import RegmixError
from regmix.files import read_json

NONE: IntArray = np.zeros(0, dtype=np.int64)


def task(sizes: dict[str, int], groups: dict[str, tuple[str, ...]] | None = None) -> Questions:
    questions = [
        Question(f"here:{name}:{i}", name, "Question: x\nAnswer:", (" a", " béé", " c d"), i % 3)
        for name, size in sizes.items()
        for i in range(size)
    ]
    subjects = {name: Subject("", ()) for name in sizes}
    return Questions("t", subjects, groups or {}, tuple(questions), len(questions))


def answered(asked: Questions, logprob: np.ndarray) -> tuple[Prompts, Answers]:
    own = [Prompt(i, NONE, (), 0, 0) for i in range(len(asked.questions))]
    return Prompts([(NONE, own)]), Answers(own, [row[None] for row in logprob], 0)


def random(count: int, seed: int = 0) -> np.ndarray:
    return -np.abs(np.random.default_rng(seed).normal(20, 6, (count, 3)))


def values(result: Result) -> dict[str, float]:
    return {m.name: m.value for m in result.means}


def test_metrics_of_a_question_by_hand() -> None:
    found = choice_metrics.of_question(
        np.log([0.2, 0.3, 0.1]), np.asarray([1, 3, 2]), np.asarray([1, 5, 2]), 1
    )
    bits = np.asarray([-math.log2(0.2), -math.log2(0.3) / 5, -math.log2(0.1) / 2])
    assert found == {
        "acc": 1.0,
        "acc_norm": 1.0,
        "acc_bytes": 1.0,
        "bpb": pytest.approx(bits[1]),
        "choice_logprob": pytest.approx(math.log(0.5)),
        "choice_prob_norm": pytest.approx(softmax(-bits)[1]),
    }


@given(
    st.lists(st.floats(-300, -1e-3), min_size=2, max_size=6),
    st.data(),
)
def test_metrics_of_any_question(logprob: list[float], data: st.DataObject) -> None:
    count = len(logprob)
    size = np.asarray(data.draw(st.lists(st.integers(1, 90), min_size=count, max_size=count)))
    gold = data.draw(st.integers(0, count - 1))
    found = choice_metrics.of_question(np.asarray(logprob), size, size, gold)
    assert found["choice_logprob"] == pytest.approx(log_softmax(logprob)[gold], abs=1e-9)
    bits = -np.asarray(logprob) / size / math.log(2)
    assert found["choice_prob_norm"] == pytest.approx(softmax(-bits)[gold], abs=1e-12)
    assert found["acc_norm"] == found["acc_bytes"]


def test_characters_and_bytes_are_counted_without_the_leading_space() -> None:
    asked = task({"one": 2})  # " béé": 3 characters, 5 bytes
    prompts, answers = answered(asked, np.asarray([[-4.0, -11.9, -12.1], [-2.0, -5.9, -9.0]]))
    table = multiple_choice.result(asked, prompts, answers, 0).items
    assert table["bpb"].tolist() == pytest.approx([4 / math.log(2), 5.9 / 5 / math.log(2)])
    # per character −4, −3.97, −4.03; per byte −4, −2.38, −4.03
    assert table["acc_norm"].tolist() == [0.0, 1.0]


def test_subjects_count_the_same_and_micro_counts_questions() -> None:
    asked = task({"big": 60, "small": 4, "other": 9}, {"two": ("small", "other")})
    prompts, answers = answered(asked, random(73))
    result = multiple_choice.result(asked, prompts, answers, 0)
    found, by_subject = values(result), result.items.groupby("subject")
    for metric in METRICS:
        mean = by_subject[metric].mean()
        assert found[f"t/{metric}"] == pytest.approx(mean.mean())
        assert found[f"t/two/{metric}"] == pytest.approx(mean[["small", "other"]].mean())
        assert found[f"t/micro/{metric}"] == pytest.approx(result.items[metric].mean())
        assert found[f"t/big/{metric}"] == pytest.approx(mean["big"])
        assert of_name(f"t/{metric}") == ("lower" if metric == "bpb" else "higher")
    assert set(result.metrics) == {
        f"t/{group}{metric}" for group in ("", "two/", "micro/") for metric in METRICS
    }


def test_standard_errors_are_those_of_questions_drawn_anew_within_their_subjects() -> None:
    asked = task({"big": 300, "small": 40}, {"all": ("big", "small")})
    prompts, answers = answered(asked, random(340, 4))
    result = multiple_choice.result(asked, prompts, answers, 0)
    rng = np.random.default_rng(1)
    for metric in ("acc", "bpb"):
        means = []
        for name in ("big", "small"):
            own = result.items.loc[result.items["subject"] == name, metric].to_numpy(dtype=float)
            count = len(own)
            drawn = own[rng.integers(count, size=(20_000, count))].mean(1)
            means.append((drawn - drawn.mean()) * math.sqrt(count / (count - 1)))
        errors = {m.name: m.std_error for m in result.means}
        assert errors[f"t/small/{metric}"] == pytest.approx(means[1].std(), rel=0.03)
        for name in ("t", "t/all"):
            assert errors[f"{name}/{metric}"] == pytest.approx(np.mean(means, 0).std(), rel=0.03)


def test_one_question_has_no_error() -> None:
    asked = task({"one": 1, "two": 5})
    prompts, answers = answered(asked, random(6))
    errors = {m.name: m.std_error for m in multiple_choice.result(asked, prompts, answers, 0).means}
    assert errors["t/one/acc"] is None
    assert errors["t/acc"] is None
    assert errors["t/two/bpb"] is not None
    assert errors["t/micro/bpb"] is not None


def test_what_is_no_number_is_left_out_counted_and_named(tmp_path: Path) -> None:
    asked = task({"one": 4, "two": 3})
    logprob = random(7)
    logprob[1, 2], logprob[5, 0] = math.nan, -math.inf
    prompts, answers = answered(asked, logprob)
    prompts.excluded[0] = "a choice without a token (' ')"
    answers.prompts.pop(0), answers.logprob.pop(0)
    result = multiple_choice.result(asked, prompts, answers, 0)
    assert set(result.excluded) == {"here:one:0", "here:one:1", "here:two:1"}
    assert result.counts["excluded"] == 3
    counts = {m.name: m.count for m in result.means}
    assert (counts["t/one/acc"], counts["t/two/acc"], counts["t/acc"]) == (2, 2, 4)
    result.save(tmp_path / "r.json", run_id="r")
    saved = read_json(tmp_path / "r.json")
    assert saved["excluded"] == dict(result.excluded)
    assert {m["name"]: m["value"] for m in saved["metrics"]} == values(result)
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert table["question"].tolist() == [q.place for q in asked.questions[1:]]
    assert table["bpb"].isna().sum() == 2


def test_a_subject_of_which_nothing_is_left_is_an_error() -> None:
    asked = task({"one": 2, "two": 3})
    logprob = random(5)
    logprob[:2] = math.nan
    with pytest.raises(RegmixError, match=r"task 't': subject 'one' has no question left"):
        multiple_choice.result(asked, *answered(asked, logprob), 0)
