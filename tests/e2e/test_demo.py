"""The demo, as a person runs it: from text to a measured comparison, and nothing done twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from regmix.mixture import MixtureFile
from regmix.study import Study

pytestmark = pytest.mark.slow


class Links(HTMLParser):
    """Where a page's elements point to; what stands in its scripts is no element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regmix.cli", "demo", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    return demo(folder, "--size", "tiny")


def written(folder: Path) -> dict[str, int]:
    """When the files that hold work were last written."""
    kinds = ("corpus/**/*.zst", "tokens/**/*.bin", "runs/*/events.jsonl", "runs/*/DONE")
    return {str(p): p.stat().st_mtime_ns for kind in kinds for p in folder.glob(kind)}


def test_demo_ends_with_every_run_done(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    study = Study.open(folder)
    counts = study.store.query("select status, count(*) as n from runs group by status")
    assert counts["status"].tolist() == ["done"]
    assert counts["n"].tolist() == [len(study.runs())]
    roles = set(study.store.query("select distinct role from runs")["role"])
    assert roles == {"swarm", "baseline", "replicate", "single", "target"}


def test_the_mixture_covers_the_domains_and_sums_to_one(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    study = Study.open(folder)
    mixture = MixtureFile.load(study.layout.mixture("best"), study.domains).mixture
    assert len(mixture.domains) >= 2
    assert sum(mixture.weights) == pytest.approx(1, abs=1e-12)
    for name, weight in mixture.as_dict().items():
        assert re.search(rf"^{name} +{weight:.4f}", finished.stdout, re.MULTILINE)


def test_the_comparison_was_measured_and_is_printed(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    study = Study.open(folder)
    comparison = study.comparison()
    assert comparison is not None
    means = comparison.values.groupby("mixture")["objective"].mean()
    assert set(means.index) == {"proposal", "natural", "uniform"}
    line = next(x for x in finished.stdout.splitlines() if x.startswith("objective")
                and f"{means['proposal']:.4f}" in x)  # fmt: skip
    assert all(f"{value:.4f}" in line for value in means)
    for reference in ("natural", "uniform"):
        gain = means[reference] - means["proposal"]
        assert re.search(rf"against {reference} +measured gain \{gain:+.4f}", finished.stdout)
    for record in study.runs():
        if record.spec.role == "target":
            assert (record.layout.model / "model.safetensors").is_file()


def test_the_report_needs_nothing_from_elsewhere(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    report = Study.open(folder).layout.report
    assert str(report) in finished.stdout
    page = report.read_text(encoding="utf-8")
    links = Links(page).found
    assert links
    assert [x for x in links if not x.startswith(("#", "data:"))] == []
    assert "@import" not in page
    assert not re.search(r"url\(\s*['\"]?(?!['\"]?(#|data:))", page)
    for domain in Study.open(folder).domains:
        assert domain in page


def test_a_second_time_nothing_is_done_again(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    before = written(folder)
    assert len(before) > 40
    again = demo(folder, "--size", "tiny")
    assert again.returncode == 0, again.stderr
    assert written(folder) == before
    measured = [x for x in finished.stdout.splitlines() if x.startswith("against ")]
    assert measured
    assert [x for x in again.stdout.splitlines() if x.startswith("against ")] == measured


def test_other_settings_in_the_same_folder_are_refused(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    before = written(folder)
    other = demo(folder, "--size", "tiny", "--seed", "1")
    assert other.returncode == 2
    assert "holds a demo with size tiny, corpus None, seed 0; asked was" in other.stderr
    assert "seed 1" in other.stderr
    assert written(folder) == before


@pytest.mark.parametrize(
    "name", ["1-first-look", "2-trade-off", "4-choosing-proxies", "5-proposal-to-training"]
)
def test_a_notebook_runs_on_the_demo(
    finished: subprocess.CompletedProcess[str],
    folder: Path,
    name: str,
    tmp_path: Path,
    run_notebook: Any,
) -> None:
    """On a copy, as notebooks keep what they compute in the study."""
    study = tmp_path / "demo"
    shutil.copytree(folder, study)
    assert run_notebook(name, REGMIX_STUDY=str(study))
