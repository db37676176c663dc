"""How large is a report, and how quick in the browser? A small study and the largest one.

    python -m benchmarks.report [--only small]

Small: 4 domains, 6 metrics, 48 runs. Large: 64 domains, 110 metrics, 512 runs of a synthetic law,
once with a regressor that is quick to fit (``sqrt-ridge``) and once with a Gaussian process a
metric, the heaviest that a page computes exactly; its hyperparameters are given, since finding them
for 110 metrics takes hours of one core and changes nothing in the page. For the same reason no run
is flagged by its prediction, which fits such processes too. Debian's Chromium opens
each file from disk five times: megabytes, seconds to the first paint and until the explorer can be
used (medians), milliseconds from a slider's movement to the frame that shows it (median and 95th
percentile of 40), seconds of a search for the best mixture, and seconds that the report took.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmix import report
from regmix.config import FitConfig
from regmix.flags import prediction
from regmix.imports import read_csvs
from regmix.intake import create_for_import
from regmix.regressors.gp import GaussianProcess
from regmix.results import SURROGATE
from regmix.study import Study

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "services"))
import browser  # type: ignore[import-not-found]

RESULTS = Path(__file__).parent / "results"
QUICK = FitConfig(
    regressor="sqrt-ridge", samples=500, top_k=20, folds=2, repeats=1, bootstraps=0, caution=0.0
)
OPENED, MOVES = 5, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("small",))
    args = parser.parse_args()
    prediction.LEAST_RUNS = sys.maxsize
    rows = []
    with tempfile.TemporaryDirectory() as place:
        rows.append(measured(made(Path(place) / "small", 4, 6, 48, "gp"), "gp"))
        if args.only is None:
            large = made(Path(place) / "large", 64, 110, 512, "sqrt-ridge")
            rows.append(measured(large, "sqrt-ridge"))
            with_processes(large)
            rows.append(measured(large, "gp, given"))
    table = pd.DataFrame(rows)
    table["cores"] = len(os.sched_getaffinity(0))
    print(table.to_string(index=False))
    if args.only is None:
        table.to_csv(RESULTS / f"report-{platform.machine()}.csv", index=False)


def measured(study: Study, regressor: str) -> dict[str, Any]:
    """One row: the report's size and times."""
    data = study.observations()
    began = time.perf_counter()
    path = report.write(study)
    took = time.perf_counter() - began
    row = {
        "domains": len(data.domains),
        "metrics": len(data.metric_names),
        "runs": len(data.weights),
        "regressor": regressor,
        "mb": round(path.stat().st_size / 1e6, 2),
        **looked_at(path),
        "report_s": round(took, 1),
    }
    print(row, flush=True)
    return row


def made(root: Path, domains: int, metrics: int, runs: int, regressor: str) -> Study:
    """A fitted study: power laws with noise, as in ``benchmarks.fit``."""
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.full(domains, 0.4), size=runs)
    strength = rng.gamma(0.3, size=(metrics, domains))
    y = 2 + ((x + 0.02) ** -0.4) @ strength.T / 10
    y = y + 0.03 * y.std(0) * rng.standard_normal(y.shape)
    index = pd.Index([f"r{i:03d}" for i in range(runs)], name="run")
    root.mkdir()
    paths = [root / "w.csv", root / "m.csv"]
    pd.DataFrame(x, index, [f"web/topic-{i:02d}" for i in range(domains)]).to_csv(paths[0])
    names = [f"{('bpb', 'mmlu', 'code')[i % 3]}/task-{i:03d}" for i in range(metrics)]
    pd.DataFrame(y, index, names).to_csv(paths[1])
    study = create_for_import(root / "study", read_csvs(*paths), paths)
    study.fit(settings=QUICK.model_copy(update={"regressor": regressor}))
    return study


def with_processes(study: Study) -> None:
    """The fit's regressors replaced by Gaussian processes with middling hyperparameters."""
    data, fit = study.observations(), study.latest_fit()
    surrogate = fit.surrogate
    x = data.x()
    theta = [*np.full(x.shape[1], 0.9), 0.0, -2.0, -4.0]
    metrics = []
    for metric in surrogate.metrics:
        y = data.y(metric.name)
        state = {
            "x": x.tolist(), "y": ((y - y.mean()) / y.std()).tolist(), "noise": [1.0] * len(x),
            "mean": float(y.mean()), "scale": float(y.std()), "theta": theta,
        }  # fmt: skip
        model = GaussianProcess.from_state(state)
        metrics.append(replace(metric, regressor="gp", model=model))
    replace(surrogate, metrics=tuple(metrics)).save(fit.folder / SURROGATE)


def looked_at(path: Path) -> dict[str, Any]:
    """What the browser says of a page."""
    paints, ready = [], []
    with browser.chromium() as driver:
        driver.set_script_timeout(600)
        for _ in range(OPENED):
            driver.get("about:blank")
            driver.get(path.as_uri())
            time.sleep(1.0)  # what is drawn after a pause is not part of the first paint
            found = driver.execute_script(
                "return [performance.getEntriesByName('first-contentful-paint')[0].startTime,"
                " performance.getEntriesByName('explorer')[0].startTime]"
            )
            paints.append(found[0])
            ready.append(found[1])
        moves = [driver.execute_async_script(MOVE, i) for i in range(MOVES)]
        search = driver.execute_async_script(SEARCH)
        complaints = driver.get_log("browser")
    assert not complaints, complaints
    return {
        "first_paint_s": round(float(np.median(paints)) / 1e3, 2),
        "explorer_s": round(float(np.median(ready)) / 1e3, 2),
        "move_ms": round(float(np.median(moves)), 1),
        "move_p95_ms": round(float(np.quantile(moves, 0.95)), 1),
        "search_s": round(search / 1e3, 1),
    }


MOVE = """
const [n, done] = arguments;
const sliders = document.querySelectorAll('#x-sliders input[type=range]');
const slider = sliders[n % sliders.length];
const began = performance.now();
slider.value = Number(slider.max) * ((n * 0.37) % 0.9);
slider.dispatchEvent(new Event('input'));
requestAnimationFrame(() => {
  const took = performance.now() - began;
  slider.dispatchEvent(new Event('change'));
  setTimeout(() => done(took), 400);
});
"""
"""The explorer asked for its frame first, so that its work is done when this one's comes."""
SEARCH = """
const done = arguments[0];
const began = performance.now();
RegmixExplorer.model.findBest(() => {}, () => false).then(() => done(performance.now() - began));
"""


if __name__ == "__main__":
    main()
