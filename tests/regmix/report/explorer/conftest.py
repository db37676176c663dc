"""Studies to explore: a convex one under every kind of constraint, and one of every regressor."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from regmix import imports
from regmix.intake import create_for_import
from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.regressors import regressor
from regmix.regressors.ensemble import Ensemble, Member
from regmix.report import write
from regmix.report.explorer.export import Region
from regmix.solve import Problem
from regmix.space import Constraint, Space
from regmix.study import Study
from regmix.surrogate import FittedMetric, Scores, Surrogate

SERVICE = Path(__file__).parents[3] / "services" / "browser.py"
SCREENSHOTS = "REGMIX_SCREENSHOTS"
"""Environment variable: the folder in which pictures of the page are kept."""
DOMAINS = ("books", "code/py", "code/js", "math", "web/high", "web/low")
CONSTRAINED = """\
space:
  bounds: {books: [0.02, 0.3]}
  groups:
    code: {domains: ['code/*'], lower: 0.1, upper: 0.6}
  ratios:
    web: {of: [web/low], to: [web/high], upper: 2.0}
  pinned:
    code: {code/py: 3, code/js: 1}
  max_epochs: 4
  budget_tokens: 10000000
objective:
  weights: {bpb/code: 2, bpb/math: 1, bpb/web: 1}
  groups: {text: [bpb/web, bpb/math]}
fit: {regressor: loglinear, samples: 2000, repeats: 1, bootstraps: 2}
"""
TOKENS = {"books": 400_000, "code/py": 900_000, "code/js": 500_000, "math": 800_000,
          "web/high": 2_000_000, "web/low": 5_000_000}  # fmt: skip


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures are kept: the folder that the environment names, or a passing one."""
    named = os.environ.get(SCREENSHOTS)
    return Path(named) if named else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="session")
def convex(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """60 runs of exponential laws, which are convex, in a space with every kind of constraint."""
    root = tmp_path_factory.mktemp("convex")
    rng = np.random.default_rng(5)
    space = Space(DOMAINS)
    weights = space.sample(60, rng, centre=np.full(6, 1 / 6), concentration=(0.4, 6.0)).weights
    slopes = {
        "bpb/code": [-0.2, -2.5, -1.5, -0.5, -0.3, 0.0],
        "bpb/math": [-0.3, -0.6, -0.2, -3.0, -0.4, -0.1],
        "bpb/web": [-0.8, 0.2, 0.1, 0.3, -1.8, -1.2],
    }
    runs = pd.Index([f"r{i:02d}" for i in range(60)])
    metrics = {
        name: 1 + np.exp(0.3 + weights @ np.array(t)) + 0.002 * rng.standard_normal(60)
        for name, t in slopes.items()
    }
    metrics["mmlu/acc"] = 0.4 - 0.2 * np.exp(-2 * weights[:, 0]) + 0.002 * rng.standard_normal(60)
    files = [root / "mixtures.csv", root / "metrics.csv"]
    pd.DataFrame(weights, runs, list(DOMAINS)).to_csv(files[0], index_label="run")
    pd.DataFrame(metrics, runs).to_csv(files[1], index_label="run")
    study = create_for_import(root / "study", imports.read_csvs(*files), files)
    text = study.layout.config.read_text()
    for name, tokens in TOKENS.items():
        text = text.replace(f"- name: {name}\n", f"- name: {name}\n  tokens: {tokens}\n")
    study.layout.config.write_text(text + CONSTRAINED)
    study = Study.open(study.layout.root)
    study.fit()
    return study


@pytest.fixture(scope="session")
def convex_page(convex: Study) -> Path:
    """Its report."""
    return write(convex)


@dataclass(frozen=True)
class Everything:
    """A surrogate with a metric for every regressor, and where it is to be good."""

    problem: Problem
    region: Region

    def draw(self, count: int) -> FloatArray:
        """Mixtures that nothing was fitted to, corners and edges among them."""
        x = self.region.draw(count, 9)
        x[:4] = self.region.space.pull(np.eye(4))
        return x


def fitted_metrics(x: FloatArray, rng: np.random.Generator) -> list[FittedMetric]:
    """One metric a regressor, and an ensemble of them."""
    scores = Scores(1.0, 1.0, 0.0, 0.0, 0.9)
    found, members = [], []
    for i, name in enumerate(("linear", "sqrt-ridge", "loglinear", "powerlaw", "gp", "lightgbm")):
        y = 2 + i + np.exp(-2 * x[:, i % x.shape[1]]) + 0.3 * np.sqrt(x[:, 1])
        y += 0.01 * rng.standard_normal(len(x))
        model = regressor(name).fit_all(x, y[:, None])[0]
        found.append(FittedMetric(name, name, model, 1.0 + 0.1 * i, scores, {}))
        members.append(Member((i + 1) / 21, 1.0, model))
    found.append(FittedMetric("ensemble", "ensemble", Ensemble(members), 0.9, scores, {}))
    return found


@pytest.fixture(scope="session")
def everything() -> Everything:
    """Every regressor over four domains under a cap and a group."""
    rng = np.random.default_rng(1)
    domains = ("a", "b", "c", "d")
    space = Space(
        domains,
        [Constraint("cap", {"a": 1.0}, upper=0.6), Constraint("pair", {"b": 1, "c": 1}, 0.1)],
    )
    x = space.pull(rng.dirichlet(np.ones(4), 48))
    metrics = tuple(fitted_metrics(x, rng))
    correlation = 0.3 + 0.7 * np.eye(len(metrics))
    surrogate = Surrogate(domains, metrics, correlation)
    names = surrogate.metric_names
    objective = Objective(names, (1 / 7,) * 7, (1, 1, -1, 1, 1, 1, 1))
    region = Region(space, np.full((1, 4), 0.25), x)
    return Everything(Problem(surrogate, objective, space), region)


@pytest.fixture(scope="session")
def browser_service() -> ModuleType:
    """The script that starts Chromium; where that cannot be installed, the test is skipped."""
    spec = importlib.util.spec_from_file_location("services_browser", SERVICE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.install()
    except SystemExit as exc:
        pytest.skip(str(exc))
    return module
