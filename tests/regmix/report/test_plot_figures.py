"""Figures as a notebook uses them, and what notebooks show of objects."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regmix import flags, report
from regmix.comparison import Gain
from regmix.diagnose.curve import Curve, Forecast
from regmix.errors import UserError
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.plot import Figure, frames, trust
from regmix.plot.evidence import LEARNING, sides_by_name
from regmix.study import Study

WITH_FIT = ("weights", "gains", "held_out", "noise_floor", "learning", "distances", "effects",
            "matrix", "interactions", "shares", "objectives", "throughput")  # fmt: skip


@pytest.fixture
def figure() -> Figure:
    """Two mixtures over domains whose names need escaping."""
    frame = frames.weights(
        {
            "proposal": Mixture.of({"a<b>": 0.7, "c&d": 0.3}),
            "uniform": Mixture.uniform(["a<b>", "c&d"]),
        }
    )

    def draw(paper: Any) -> Any:
        from regmix.plot.draw import answer

        return answer.weights(frame, paper)

    return Figure("Shares <b>", "What & how", frame, draw, {"proposal": "share"})


def test_every_figure_has_data_and_a_picture(trained: Any) -> None:
    plot = trained.study.plot
    for name in WITH_FIT:
        found: Figure = getattr(plot, name)()
        frame = found.frame()
        assert len(frame), name
        assert frame.attrs["caption"] == found.caption
        assert set(frame.attrs["units"]) <= set(map(str, frame)), name
        svg = found.svg()
        assert svg.startswith("<svg role=")
        assert not re.search("#0a0b0[1-4]", svg), f"{name}: a stand-in was drawn"
        assert "<style" not in svg


def test_what_a_study_lacks_is_told(trained: Any, unfitted: Any) -> None:
    with pytest.raises(UserError, match="not both been measured"):
        trained.study.plot.metric_gains()
    with pytest.raises(UserError, match="no larger size"):
        trained.study.plot.transfer()
    with pytest.raises(UserError, match="name two groups"):
        trained.study.plot.front()
    with pytest.raises(UserError, match="bpb/coed"):
        trained.study.plot.effects("bpb/coed")
    with pytest.raises(UserError, match=r"effects: .*'wbe'"):
        trained.study.plot.effects(domains=["wbe"])
    for name in ("gains", "held_out", "learning", "effects", "matrix", "interactions"):
        with pytest.raises(UserError, match="nothing is fitted yet"):
            getattr(unfitted.study.plot, name)()
    assert list(unfitted.study.plot.weights().frame()) == ["natural", "uniform"]


def test_effects_are_the_fits_own(trained: Any) -> None:
    study: Study = trained.study
    found = study.plot.effects("bpb/code", domains=["code"]).frame()
    best = study.best()
    here = found[(found["share"] - best["code"]).abs() < 1e-9]
    predicted, std = study.latest_fit().surrogate.predict_one(best)["bpb/code"]
    assert here["mean"].iloc[0] == pytest.approx(predicted)
    assert here["std"].iloc[0] == pytest.approx(std)
    assert here["gain"].iloc[0] == pytest.approx(0, abs=1e-9)
    # The law is that more of a domain's own text is better.
    assert found["gain"].is_monotonic_increasing


def test_the_curve_is_kept_with_the_fit(trained: Any) -> None:
    first = trained.study.plot.learning().frame()
    pd.testing.assert_frame_equal(trained.study.plot.learning().frame(), first)
    kept = trained.study.latest_fit().folder / LEARNING
    content = json.loads(kept.read_text())
    content["curve"]["points"][0]["spearman"] = 0.125  # computed again, it would be another
    kept.write_text(json.dumps(content))
    again = trained.study.plot.learning().frame()
    assert again["spearman"].iloc[0] == 0.125
    pd.testing.assert_frame_equal(again.iloc[1:], first.iloc[1:])


def test_a_curve_goes_on_as_its_power_law_says() -> None:
    points = pd.DataFrame(
        {"spearman": [0.5, 0.75], "std": [0.1, 0.0]}, index=pd.Index([25, 100], name="runs")
    )
    curve = Curve(points, Forecast(400, 16, 0.01, -0.01, 0.03, 0.5), "gp", False)
    assert Curve.of(curve.as_dict()).points.equals(points.astype(float))
    frame = frames.learning(curve)
    ahead = frame[frame["kind"] == "forecast"].reset_index(drop=True)
    assert ahead["runs"].to_list() == [400, 416]
    assert ahead["spearman"].to_list() == pytest.approx([1 - 0.25 / 2, 1 - 0.25 / 2 + 0.01])
    assert ahead[["low", "high"]].iloc[1].to_list() == pytest.approx([0.865, 0.905])
    assert frame["low"].iloc[0] == pytest.approx(0.5 - 1.645 * 0.1)


def test_gains_have_the_intervals_of_their_kind(trained: Any) -> None:
    proposal = trained.study.latest_fit().proposal
    gain = Gain("natural", {0: 0.2, 1: 0.4}, *proposal.baseline("natural").gain)
    frame = trust.gains(proposal, {"natural": gain}, SeedNoise(0.05, 2))
    own = frame[frame["reference"] == "natural"].set_index("kind")
    mean, std = gain.predicted, gain.predicted_std
    assert own.loc["predicted", "low"] == pytest.approx(mean - 1.645 * std)
    half = 4.302653 * 0.05 * 2**0.5 / 2**0.5  # t of 2, a difference of two runs, two seeds
    assert own.loc["measured", "high"] == pytest.approx(0.3 + half)
    assert own.loc["seed", "gain"].to_list() == [0.2, 0.4]
    assert set(frame["kind"][frame["reference"] == "uniform"]) == {"predicted"}


def test_a_report_looks_for_flags_once(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    find = flags.find
    monkeypatch.setattr(flags, "find", lambda *a: calls.append(1) or find(*a))
    report.render(trained.study)
    assert len(calls) == 1


def test_sides_are_the_studys_or_math_and_code_against_knowledge(trained: Any) -> None:
    assert trained.study.plot.evidence.usual_sides is None
    names = ("bpb/code", "bpb/math", "bpb/web", "mmlu/bpb", "mmlu/college_math/bpb", "gsm8k/acc")
    assert sides_by_name(names) == ("bpb/code,bpb/math", "mmlu/bpb")


def test_a_figure_is_saved_as_what_its_name_says(figure: Figure, tmp_path: Path) -> None:
    assert figure.save(tmp_path / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    svg = figure.save(str(tmp_path / "f.svg")).read_text("utf-8")
    assert "<svg" in svg
    assert "var(" not in svg, "a file has no page to take colours from"
    with pytest.raises(UserError, match=r"\.svg or \.png, not '\.pdf'"):
        figure.save(tmp_path / "f.pdf")


def test_a_notebook_shows_it_without_a_page_around_it(figure: Figure) -> None:
    html = figure._repr_html_()
    for name in set(re.findall(r"var\((--\w+)\)", html)):
        assert f"{name}:#" in html, "a variable that nothing sets"
    assert "What &amp; how" in html
    assert ">a&lt;b&gt;</text>" in html
    assert figure.frame().attrs["units"] == {"proposal": "share"}
    own = figure.frame()
    own["proposal"] = np.nan
    assert figure.frame()["proposal"].notna().all(), "the data is not the reader's to change"


def test_data_needs_no_matplotlib() -> None:
    code = (
        "import sys, pandas as pd\n"
        "from regmix.plot import Figure\n"
        "Figure('t', 'c', pd.DataFrame({'a': [1]}), lambda paper: None).frame()\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_notebooks_show_tables_with_names_as_they_are(imported: Study, trained: Any) -> None:
    assert "30 imported" in imported._repr_html_()
    assert "<td>24 done</td>" in trained.study._repr_html_()
    mixture = Mixture.of({"<script>": 0.25, "b": 0.75})
    assert mixture._repr_html_().index("75.00%") < mixture._repr_html_().index("25.00%")
    fit = trained.study.latest_fit()
    for html in (mixture._repr_html_(), fit.proposal._repr_html_(), fit._repr_html_()):
        assert html.count("<table>") == html.count("</table>") > 0
        assert "<script>" not in html
    assert fit.fit_id in fit._repr_html_()
    assert "bpb/code" in fit._repr_html_()
    assert "natural" in fit.proposal._repr_html_()


@pytest.mark.parametrize("there", [True, False])
def test_open_says_where_the_report_is(imported: Study, there: bool, tmp_path: Path) -> None:
    """With a browser that writes down what it is to open, or none at all."""
    asked = tmp_path / "asked"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {asked}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "regmix.cli", "report", imported.layout.root, "--open"]
    place = {"PATH": str(tmp_path / "nothing"), "BROWSER": f"{browser} %s" if there else ""}
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "TERM")}
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**kept, **place}
    )
    assert asked.exists() is there
    if there:
        assert asked.read_text().strip() == imported.layout.report.as_uri()
    assert str(imported.layout.report) in ended.stdout.replace("\n", "")
    assert ("no browser here" in ended.stdout) is not there
