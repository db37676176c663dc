"""The compact surrogate in Python: exact where it says so, measured where it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from regmix.mixture import Mixture
from regmix.objective import Objective
from regmix.report.explorer import payload, words
from regmix.report.explorer.agreement import OBJECTIVE, Agreement
from regmix.report.explorer.compact import Compact
from regmix.report.explorer.export import Region, compact
from regmix.report.explorer.parts import Inputs
from regmix.report.explorer.sampling import cloud
from regmix.solve import Limit, Problem

EXACT = ("linear", "sqrt-ridge", "loglinear", "powerlaw", "gp")


@pytest.fixture(scope="module")
def small(everything: Any) -> Compact:
    return compact(everything.problem, everything.region)


def test_what_is_exact_is_the_fit_itself(everything: Any, small: Compact) -> None:
    x = everything.draw(300)
    mean, std = small.predict(x)
    for i, metric in enumerate(everything.problem.surrogate.metrics):
        if metric.name in EXACT:
            real = metric.predict(x)
            assert small.metrics[i].exact_mean
            assert small.metrics[i].exact_std
            np.testing.assert_allclose(mean[:, i], real.mean, rtol=0, atol=1e-9 * np.ptp(real.mean))
            np.testing.assert_allclose(std[:, i], real.std, rtol=1e-7)


def test_trees_and_ensembles_get_a_stand_in_that_is_near(everything: Any, small: Compact) -> None:
    x = everything.draw(300)
    mean, std = small.predict(x)
    for i, metric in enumerate(everything.problem.surrogate.metrics):
        if metric.name not in EXACT:
            real = metric.predict(x)
            assert not small.metrics[i].exact_mean
            assert not small.metrics[i].exact_std
            off = np.abs(mean[:, i] - real.mean) / real.std
            assert 0 < np.median(off) < 0.5
            assert np.median(np.abs(std[:, i] / real.std - 1)) < 0.2
    kinds = [type(term.part).kind for term in small.metrics[-1].terms]
    assert kinds == ["ridge", "ridge", "exponential", "powers", "process", "stand-in"]


def test_many_runs_make_standard_deviations_stand_ins(
    everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmix.report.explorer.export.EXACT_BYTES", 1_000)
    found = compact(everything.problem, everything.region, samples=600)
    assert not any(m.exact_std for m in found.metrics)
    assert [m.name for m in found.metrics if m.exact_mean] == list(EXACT)
    agreement = Agreement.measure(
        everything.problem.surrogate, found, everything.problem.objective, everything.region
    )
    assert (agreement.frame.loc[list(EXACT), "most"] < 1e-6).all()
    assert (agreement.frame["std_p95"] > 1e-6).all()


def test_agreement_is_what_a_fresh_look_finds(everything: Any, small: Compact) -> None:
    problem = everything.problem
    agreement = Agreement.measure(problem.surrogate, small, problem.objective, everything.region)
    x = everything.region.draw(1_000, 1)
    real = problem.surrogate.objective(x, problem.objective)
    mine = small.objective(x, problem.objective)
    off = np.abs(real.mean - mine.mean) / real.std
    assert agreement.frame.loc[OBJECTIVE, "most"] == pytest.approx(off.max())
    assert agreement.frame.loc[OBJECTIVE, "median"] == pytest.approx(np.median(off))
    text = words.describe(agreement)
    assert "5 of 7 metrics" in text
    assert "1,000 fresh mixtures" in text
    shown = words.table(agreement)
    assert shown is not None
    assert [row[0] for row in shown.rows] == [OBJECTIVE, *problem.surrogate.metric_names]


def test_an_exact_page_says_so(everything: Any) -> None:
    surrogate = everything.problem.surrogate
    kept = [i for i, m in enumerate(surrogate.metrics) if m.name in EXACT]
    few = replace(
        surrogate,
        metrics=tuple(surrogate.metrics[i] for i in kept),
        correlation=surrogate.correlation[np.ix_(kept, kept)],
    )
    objective = Objective(EXACT, (0.2,) * 5, (1,) * 5)
    problem = replace(everything.problem, surrogate=few, objective=objective)
    found = compact(problem, everything.region)
    assert found.basis is None
    agreement = Agreement.measure(few, found, objective, everything.region)
    assert agreement.exact
    assert words.describe(agreement).startswith("The page computes the fit itself")
    assert words.table(agreement) is None


def test_limits_are_carried(everything: Any) -> None:
    uniform = Mixture.uniform(everything.region.space.domains)
    limit = Limit("gp", 1, uniform, "uniform", 0.01, 0.9, 6.0)
    problem: Problem = replace(everything.problem, limits=(limit,))
    found = compact(problem, everything.region)
    x = everything.draw(300)
    truth = limit.excess(problem.surrogate, x)
    mine = found.limits[0].excess(Inputs(x, found.basis))
    assert np.quantile(np.abs(mine - truth), 0.95) < 0.1 * np.ptp(truth)
    assert np.mean((mine > 0) == (truth > 0)) > 0.95


def test_what_is_written_predicts_the_same_to_the_last_digit(
    everything: Any, small: Compact
) -> None:
    again = Compact.of(payload.loads(payload.dumps(small.as_dict())))
    x = everything.draw(50)
    for mine, theirs in zip(small.predict(x), again.predict(x), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_equal_arrays_are_written_once(small: Compact) -> None:
    raw = json.loads(payload.dumps(small.as_dict()))
    data = [(tuple(a["shape"]), a["data"]) for a in raw["arrays"]]
    assert len(data) == len(set(data))
    process = [t for m in raw["value"]["metrics"] for t in m["terms"] if t["kind"] == "process"]
    assert len(process) == 2
    assert process[0]["inputs"] == process[1]["inputs"]


def test_no_name_ends_the_script_element() -> None:
    name = "</script><!--<script>&\u2028"
    text = payload.dumps({"names": [name], "x": np.eye(2)})
    assert not set("<>&\u2028") & set(text)
    back = payload.loads(text)
    assert back["names"] == [name]
    np.testing.assert_array_equal(back["x"], np.eye(2))


@pytest.mark.parametrize("value", [np.array([1.0, np.nan]), float("inf")])
def test_what_is_not_finite_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"not finite|Out of range"):
        payload.dumps({"x": value})


def test_mixtures_that_judge_are_allowed_and_others_than_those_that_fit(everything: Any) -> None:
    region: Region = everything.region
    first, second = region.draw(500, 0), region.draw(500, 1)
    assert region.space.contains(first).all()
    assert region.space.contains(second).all()
    # Corners of the space are met by both; hardly anything else is.
    assert len({tuple(row) for row in first} & {tuple(row) for row in second}) < 10
    again = cloud(region.space, region.anchors, region.runs, 500, np.random.default_rng([11, 0]))
    np.testing.assert_array_equal(first, again)
