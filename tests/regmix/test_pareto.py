"""Pareto: a front that is known, and the names that say which one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regmix.cli import main
from regmix.config import ObjectiveConfig
from regmix.console.decisions import narrowed
from regmix.errors import UserError
from regmix.pareto import WEIGHT, Pareto, distances, latest, select, sides, slug
from regmix.plot import of_front
from regmix.report import render
from regmix.study import Study

Make = Callable[..., Study]
DOMAINS = ["code", "math", "web"]
A, B = np.array([0.6, 0.2, 0.2]), np.array([0.1, 0.5, 0.4])
FIT = "fit: {regressor: gp, samples: 1000, bootstraps: 0, repeats: 1, caution: 0}\n"
METRICS = ["bpb/code", "bpb/wiki", "mmlu/law/acc", "mmlu/math/acc"]


def bowls(runs: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Distances from two mixtures: the best trade-offs are those on the line between them."""
    index = pd.Index([f"r{i:02d}" for i in range(runs)])
    weights = pd.DataFrame(np.random.default_rng(1).dirichlet(np.ones(3), runs), index, DOMAINS)
    values = {
        "near_a": ((weights - A) ** 2).sum(axis=1),
        "near_b": ((weights - B) ** 2).sum(axis=1),
    }
    return weights, pd.DataFrame(values)


def mixtures(found: Pareto) -> np.ndarray:
    return found.front[[f"{WEIGHT}{d}" for d in DOMAINS]].to_numpy()


@pytest.fixture
def fitted(import_study: Make) -> Study:
    study = import_study(*bowls(), FIT)
    study.fit()
    return study


def test_the_front_of_two_bowls_is_the_line_between_them(fitted: Study) -> None:
    found = fitted.pareto("near_a", "near_b")
    w = mixtures(found)
    # |w - a| = t·|a - b| and |w - b| = (1 - t)·|a - b|: the roots add up to the distance.
    root = np.linalg.norm(w - A, axis=1) + np.linalg.norm(w - B, axis=1)
    assert root == pytest.approx(np.linalg.norm(A - B), rel=0.02)
    assert found.front["x_plain"].to_numpy() == pytest.approx(((w - A) ** 2).sum(1), abs=2e-3)
    assert np.abs(w[0] - A).max() < 0.02
    assert np.abs(w[-1] - B).max() < 0.02
    assert len(found.front) == 15
    width = found.front[["x", "y"]].iloc[[0, -1]].diff().iloc[1].abs()
    steps = (found.front[["x", "y"]].diff().iloc[1:].abs() / width).max(axis=1)
    assert steps.max() < 0.25  # no wide gap, no heap of points
    assert (found.front[["x_std", "y_std"]] > 0).all(axis=None)


def test_a_front_is_monotone_and_none_of_it_is_dominated(fitted: Study) -> None:
    front = fitted.pareto("near_a", "near_b", points=9).front
    assert list(front.index) == list(range(1, len(front) + 1))
    assert (np.diff(front["x"]) > 0).all()
    assert (np.diff(front["y"]) < 0).all()
    assert front["y_share"].iloc[0] == 0
    assert front["y_share"].iloc[-1] == 1
    assert (np.diff(front["y_share"]) > 0).all()


def test_a_front_is_the_same_each_time(fitted: Study) -> None:
    one, other = (fitted.pareto("near_a", "near_b", points=5) for _ in range(2))
    pd.testing.assert_frame_equal(one.front, other.front)
    pd.testing.assert_frame_equal(one.points, other.points)


def test_a_front_keeps_to_the_space(import_study: Make) -> None:
    space = "space: {bounds: {math: [0, 0.3]}, groups: {text: {domains: [web], lower: 0.25}}}\n"
    study = import_study(*bowls(), FIT + space)
    study.fit()
    found = study.pareto("near_a", "near_b")
    w = mixtures(found)
    assert study.space.contains(w, 1e-6).all()
    assert w[:, 1].max() == pytest.approx(0.3, abs=1e-6)
    assert not found.points.loc["uniform", "allowed"]
    assert found.points.loc["proposal", "allowed"]


def test_points_beside_the_front(fitted: Study) -> None:
    found = fitted.pareto("near_a", "near_b")
    assert list(found.points.index) == ["uniform", "best run", "proposal"]
    # The objective is the mean of both: what it is best for lies on the front.
    assert found.points.loc["proposal", "behind"] == pytest.approx(0, abs=0.02)
    uniform = found.points.loc["uniform"]
    assert uniform["behind"] > 0
    assert uniform["gain_x"] > uniform["behind"] < uniform["gain_y"]
    best = found.points.loc["best run"]
    assert best["nearest_distance"] == pytest.approx(0)
    measured = found.runs.loc[best["nearest_run"]]
    assert best[["x", "y"]].to_numpy(dtype=float) == pytest.approx(measured.to_numpy(), abs=0.05)


def test_distances_from_a_front_of_straight_lines() -> None:
    front = pd.DataFrame({"x": [0.0, 1.0, 3.0], "y": [2.0, 1.0, 0.0]})
    points = pd.DataFrame(
        {"x": [1.0, 2.0, 0.0, 5.0, 4.0, 0.5], "y": [2.0, 1.5, 4.0, 1.0, -1.0, 1.0]}
    )
    found = distances(front, points)
    assert found["behind"].to_numpy() == pytest.approx([0.5, 2 / 3, 0.0, 1.0, -1.0, -0.25])
    assert found["gain_x"].to_numpy() == pytest.approx(
        [1.0, 1.5, 0.0, 4.0, np.nan, -0.5], nan_ok=True
    )
    assert found["gain_y"].to_numpy() == pytest.approx([1.0, 1.0, 2.0, 1.0, -1.0, -0.5])


def test_a_front_is_read_back_as_it_was_written(fitted: Study) -> None:
    found = fitted.pareto("near_a", "near_b", points=4)
    back = latest(fitted.latest_fit().folder)
    assert back is not None
    assert (back.x, back.y, back.notes, back.fit_id) == (found.x, found.y, (), found.fit_id)
    for name in ("front", "points", "runs"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(found, name), check_names=False)
    assert found.csv is not None
    table = pd.read_csv(found.csv)
    assert list(table["name"]) == [*(f"front-{i}" for i in found.front.index), *found.points.index]
    assert table[[f"{WEIGHT}{d}" for d in DOMAINS]].sum(axis=1).to_numpy() == pytest.approx(1)


def test_the_figure_is_written_beside_the_table(fitted: Study, tmp_path: Path) -> None:
    found = fitted.pareto("near_a", "near_b", points=4, folder=tmp_path / "out")
    assert found.csv == tmp_path / "out" / "near_a-vs-near_b.csv"
    path = of_front(found).save(found.csv.with_suffix(".png"))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_metrics_that_agree_leave_nothing_to_trade(import_study: Make) -> None:
    weights, values = bowls()
    study = import_study(weights, values.assign(near_b=3 * values["near_a"] + 1), FIT)
    study.fit()
    found = study.pareto("near_a", "near_b")
    assert len(found.front) <= 2
    assert np.abs(mixtures(found) - A).max() < 0.02


def test_a_fit_of_one_metric_is_completed(import_study: Make) -> None:
    study = import_study(*bowls(), FIT)
    study.fit("near_b")
    found = study.pareto("near_a", "near_b", points=3)
    assert np.abs(mixtures(found)[0] - A).max() < 0.02


def test_a_side_adds_what_has_different_units(import_study: Make) -> None:
    weights, values = bowls()
    values = pd.DataFrame({"bpb/a": values["near_a"], "b/acc": -100 * values["near_b"]})
    study = import_study(weights, values, FIT)
    data = study.observations()
    x, y = sides("bpb/a", "b/acc", data, study.config.objective)
    assert (x.signs, y.signs, x.unit, y.unit) == ((1,), (-1,), "bits per byte", "b/acc")
    for side in (x, y):
        assert side.measured(data).mean() == pytest.approx(0, abs=1e-9)
        assert side.measured(data).std(ddof=1) == pytest.approx(1)


def test_names_of_metrics() -> None:
    groups = {"knowledge": ("mmlu/*", "bpb/wiki"), "typo": ("bpb/wki",)}
    assert select("bpb/code", METRICS, groups) == ["bpb/code"]
    assert select("code, law", METRICS, groups) == ["bpb/code", "mmlu/law/acc"]
    assert select("mmlu/*,law", METRICS, groups) == ["mmlu/law/acc", "mmlu/math/acc"]
    assert select("knowledge", METRICS, groups) == ["mmlu/law/acc", "mmlu/math/acc", "bpb/wiki"]
    with pytest.raises(UserError, match=r"'acc' could be any of mmlu/law/acc, .*'\*acc\*' for all"):
        select("acc", METRICS, groups)
    with pytest.raises(UserError, match="unknown metric or group 'knowlege'; did you mean 'know"):
        select("knowlege", METRICS, groups)
    with pytest.raises(UserError, match=r"objective.groups.typo: unknown metric 'bpb/wki'"):
        select("typo", METRICS, groups)
    with pytest.raises(UserError, match=r"unknown metric or group 'gsm\*'"):
        select("gsm*", METRICS, groups)
    with pytest.raises(UserError, match="an empty name between commas"):
        select("bpb/code,,law", METRICS, groups)


def test_what_cannot_be_traded(import_study: Make) -> None:
    weights, values = bowls()
    study = import_study(weights, values.assign(flat=1.0), FIT)
    data, settings = study.observations(), ObjectiveConfig()
    with pytest.raises(UserError, match=r"share near_a; a metric cannot be traded against itself"):
        sides("near_*", "near_a", data, settings)
    with pytest.raises(UserError, match="flat is the same in every run"):
        sides("near_a", "flat", data, settings)
    study.fit("near_a")
    with pytest.raises(UserError, match="--points 2: from 3 to 101"):
        study.pareto("near_a", "near_b", points=2)


def test_groups_are_checked(import_study: Make) -> None:
    study = import_study(*bowls(), "objective: {groups: {a: [near_a], b: ['*_b']}}\n" + FIT)
    assert study.config.objective.groups == {"a": ("near_a",), "b": ("*_b",)}
    for groups, message in (
        ("{a: []}", "at least 1 item"),
        ("{'a,b': [near_a]}", r"group 'a,b': a name holds no comma"),
    ):
        study.layout.config.write_text(
            f"name: s\ndomains: [{{name: web}}]\nobjective: {{groups: {groups}}}\n"
        )
        with pytest.raises(UserError, match=message):
            Study.open(study.layout.root)


def test_file_names() -> None:
    assert slug("pile_cc,mmlu*") == "pile_cc+mmlu"
    assert slug("a/b c:d::e") == "a-b-c-d-e"
    assert slug("*") == "all"


def test_the_report_shows_the_front_that_was_computed_last(fitted: Study) -> None:
    assert 'id="front"' not in render(fitted)
    fitted.pareto("near_a", "near_b", points=4)
    page = render(fitted)
    assert "near_a against near_b" in page
    assert 'aria-label="Front between near_a and near_b"' in page


def test_the_report_computes_the_front_of_the_first_two_groups(import_study: Make) -> None:
    groups = "objective: {{groups: {{first: [near_a], second: [{}]}}}}\n"
    study = import_study(*bowls(), groups.format("near_b") + FIT)
    study.fit()
    assert "first against second" in render(study)
    assert latest(study.latest_fit().folder) is not None
    other = import_study(*bowls(), groups.format("near_*") + FIT, name="other")
    other.fit()
    assert "This front was not computed: --x first and --y second share near_a" in render(other)


def test_what_the_command_prints_fits_a_screen(
    fitted: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(fitted.layout.root)
    monkeypatch.setattr(sys, "argv", ["regmix", "pareto", root, "--x", "near_a", "--y", "near_b"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert any(line.startswith("15 ") for line in lines)
    folder = fitted.latest_fit().folder / "pareto"
    assert {p.name for p in folder.iterdir()} == {
        "latest.json", *(f"near_a-vs-near_b.{kind}" for kind in ("csv", "json", "png"))
    }  # fmt: skip


def test_names_above_columns() -> None:
    assert narrowed(["the_pile_cc", "the_pile_github"]) == ["cc", "github"]
    assert narrowed(["pdf:health", "pdf:home_hobbies", "web"]) == [
        "pdf:health",
        "home_hobbies",
        "web",
    ]
    assert narrowed(["existing", "s2pdfv1:science_tech"]) == ["existing", "science_tech"]
    assert narrowed(["one-that-is-far-too-long"]) == ["one-that-is…"]
