"""The page as a reader gets it: whole, self-contained, harmless, honest about what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regmix import imports, results, solve
from regmix.config import FitConfig
from regmix.errors import UserError
from regmix.files import write_text
from regmix.fit import FitResult
from regmix.intake import create_for_import
from regmix.mixture import Mixture
from regmix.objective import Objective
from regmix.regressors import regressor
from regmix.report import render, write
from regmix.study import Study
from regmix.surrogate import FittedMetric, Scores, Surrogate

QUICK = FitConfig(regressor="gp", samples=500, top_k=20, repeats=1)
SWARM = Path(__file__).parents[4] / "shared" / "data" / "regmix_swarm"
SECTIONS = ["answer", "fit", "drivers", "trade", "explore", "history"]
SCRIPTS = {"", ' type="application/json" id="x-data"'}
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that elements are nested properly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.parts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


def assert_self_contained(html: str) -> Page:
    """Nothing is loaded or linked; returns the page without its scripts, which are inline."""
    assert set(re.findall(r"<script([^>]*)>", html)) <= SCRIPTS
    html = re.sub(r"<script[^>]*>.*?</script>", "", html, flags=re.DOTALL)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "data", "action", "srcset"}:
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,")), (tag, value[:80])
            if not name.startswith("xmlns"):
                assert not re.search(r"https?://", value or ""), (tag, name, value)
    assert re.findall(r"url\((?!#)[^)]*\)", html) == []
    assert "@import" not in html
    assert [a["id"] for t, a in page.tags if t == "section"] == SECTIONS
    ids = [
        a["id"] for _, a in page.tags if "id" in a and not re.match("[mp][0-9a-f]", a["id"] or "")
    ]
    assert len(ids) == len(set(ids)), "an id is given twice"
    return page


def measure_targets(made: Any, metrics: Callable[[str], dict[str, float]]) -> None:
    study: Study = made.study
    for seed in (0, 1):
        for name, mixture in {"proposal": study.best(), **study.references()}.items():
            values = {m: v + 0.0001 * seed for m, v in metrics(name).items()}
            made.target(name, mixture, seed, values)


def test_a_study_with_everything(trained: Any) -> None:
    level = {"proposal": 1.0, "natural": 1.5, "uniform": 1.0}
    domains = trained.study.domains
    measure_targets(trained, lambda name: {f"bpb/{d}": level[name] for d in domains})
    page = assert_self_contained(render(trained.study))
    assert "trained&true" in page.text
    assert "better than natural by 0.5000 bits per byte over 2 seeds, as predicted" in page.text
    assert "tied with uniform over 2 seeds" in page.text
    assert "is not confirmed" in page.text
    assert "No run has failed." in page.text
    assert "to within 0.10 percentage points" in page.text
    assert "<host>" in page.text
    labels = [str(a["aria-label"]) for t, a in page.tags if t == "svg"]
    assert "Measured gain against natural" in labels
    assert sum(label.startswith("Held-out") for label in labels) == 1 + len(domains)


def test_a_prediction_that_was_wrong_is_said_in_the_first_section(trained: Any) -> None:
    level = {"proposal": 1.5, "natural": 1.0, "uniform": 1.0}
    measure_targets(trained, lambda name: {f"bpb/{d}": level[name] for d in trained.study.domains})
    html = render(trained.study)
    answer = html[html.index('id="answer"') : html.index('id="fit"')]
    assert 'class="answer bad"' in answer
    assert "worse than natural by 0.5000 bits per byte over 2 seeds, which contradicts" in answer


def test_without_target_runs_the_prediction_is_called_one(trained: Any) -> None:
    study: Study = trained.study
    study.add_run(study.target_run("later", study.best()))
    page = assert_self_contained(render(study))
    assert "Nothing has been measured at the target size: this rests on the small" in page.text
    assert "1 target run is planned or under way" in page.text


def test_runs_after_the_fit_are_counted(trained: Any) -> None:
    study: Study = trained.study
    known = {r.spec.run_id for r in study.runs()}
    before = render(study)
    spec = next(r.spec for r in study.runs() if r.spec.role == "swarm")
    more = Mixture.of({"books": 0.5, "code": 0.5, "math": 0.0, "web": 0.0})
    late = replace(spec, name="late", mixture=more)
    assert late.run_id not in known
    study.add_run(late)
    trained.finish("late", {f"bpb/{d}": 2.0 for d in study.domains})
    assert "measured after this fit" not in before
    assert "1 runs were measured after this fit" in render(study)


def test_a_study_without_a_fit_says_how_to_fit(unfitted: Any) -> None:
    unfitted.fail("m003", "loss is nan at step 3 <img src=x onerror=alert(2)>")
    page = assert_self_contained(render(unfitted.study))
    assert f"regmix fit {unfitted.study.layout.root}" in page.text
    assert "There is no proposal yet" in page.text
    assert "Runs by role and state" in page.text


def test_an_imported_study_with_hostile_names(imported: Study) -> None:
    page = assert_self_contained(render(imported))
    assert "No run was trained in this study" in page.text
    imported.fit(settings=QUICK)
    html = render(imported)
    page = assert_self_contained(html)
    for name in (*imported.domains, "<b>loss</b>", "p&l$x$", "英語"):
        assert name in page.text, f"{name} is not shown as it is"
    figures_in_page = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    for name in imported.domains:
        assert f">{escape(name, quote=False)}</text>" in figures_in_page, name
    assert "not known here: the data was measured elsewhere" in page.text
    assert "30 runs were measured elsewhere and imported" in page.text


def test_a_fit_of_one_metric_has_no_small_multiples(imported: Study) -> None:
    imported.fit("英語", settings=QUICK)
    page = assert_self_contained(render(imported))
    held_out = [a for t, a in page.tags if t == "svg" and "Held-out" in str(a["aria-label"])]
    assert len(held_out) == 1


def test_nothing_measured_is_a_users_error(tmp_path: Path) -> None:
    write_text(tmp_path / "study.yaml", "name: empty\ndomains:\n  - name: a\n")
    with pytest.raises(UserError, match="no finished proxy yet"):
        render(Study.open(tmp_path))


def test_write_puts_the_page_where_the_layout_says(imported: Study) -> None:
    path = write(imported)
    assert path == imported.layout.report
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_matplotlib_is_left_as_it_was_found(imported: Study) -> None:
    import matplotlib

    plot = imported.plot
    matplotlib.rcParams["font.size"] = 17
    try:
        first = plot.objectives().svg()
        assert matplotlib.rcParams["font.size"] == 17
        matplotlib.rcParams["font.size"] = 4
        again = plot.objectives().svg()
    finally:
        matplotlib.rcdefaults()
    assert first == again, "a figure depends on its data alone"


def test_importing_regmix_does_not_load_matplotlib() -> None:
    code = "import regmix, regmix.study, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def save_large_fit(study: Study) -> None:
    """A fit with 13 metrics that share one model of a few runs: only the drawing is asked here."""
    data = study.observations()
    names = list(data.metric_names)
    model = regressor("gp").fit_all(data.x()[:20], data.metrics.to_numpy()[:20, :1])[0]
    noise = np.random.default_rng(1).normal(0, 0.02, data.metrics.shape)
    held_out = data.metrics + noise
    fitted = tuple(
        FittedMetric(m, "gp", model, 1.0, Scores(0.5 + i / 30, 0.9, 0.1, 0.1, 0.9), {})
        for i, m in enumerate(names)
    )
    held_out[[f"{m}_std" for m in names]] = 0.02
    objective = Objective.from_config(study.config.objective, names)
    result = FitResult(Surrogate(data.domains, fitted, np.eye(len(names))), held_out)
    problem = solve.pose(result.surrogate, objective, study.space, QUICK)
    proposal = solve.propose(problem, QUICK, data, study.references(), 0)
    identity = {"fit_id": "large", "surrogate_id": "large", "mixture_name": "best"}
    diagnostics = results.diagnose(data, result, objective, identity)
    results.save(study.layout, "large", result, proposal, diagnostics, {})


@pytest.mark.slow
def test_a_large_study_stays_small_and_hides_metrics_in_the_middle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(17), size=512).round(4)
    weights[:, 0] += 1 - weights.sum(1)
    runs = pd.Index(range(512), name="run_id")
    metrics = 3 - weights[:, :13] + 0.01 * rng.standard_normal((512, 13))
    paths = [tmp_path / "mixtures.csv", tmp_path / "metrics.csv"]
    pd.DataFrame(weights, runs, [f"domain{i}" for i in range(17)]).to_csv(paths[0])
    pd.DataFrame(metrics, runs, [f"metric{i:02d}" for i in range(13)]).to_csv(paths[1])
    study = create_for_import(tmp_path / "large", imports.read_csvs(*paths), paths)
    save_large_fit(study)
    html = render(study)
    assert len(html.encode()) < 3_000_000
    page = assert_self_contained(html)
    assert "1 metric in between is not shown" in page.text
    shown = [str(a["aria-label"]).split(": ")[1] for t, a in page.tags
             if t == "svg" and "Held-out" in str(a["aria-label"])]  # fmt: skip
    assert shown == ["objective", *(f"metric{i:02d}" for i in range(13) if i != 6)]


@pytest.mark.skipif(
    not SWARM.is_dir(), reason=f"the published swarm is not on this machine ({SWARM})"
)
@pytest.mark.slow
def test_the_published_swarm(tmp_path: Path) -> None:
    paths = [SWARM / "train_mixture_1m.csv", SWARM / "train_pile_loss_1m.csv"]
    study = create_for_import(tmp_path / "pile", imports.read_csvs(*paths), paths)
    page = assert_self_contained(render(study))
    assert "512 runs over 17 domains, measured on 13 metrics" in page.text
    study.fit("pile_cc", settings=FitConfig(regressor="lightgbm", folds=2, samples=200, top_k=10))
    page = assert_self_contained(render(study))
    assert "is predicted to lower the_pile_pile_cc by" in page.text
