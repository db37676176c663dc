"""How well do the regressors predict published swarms? Fits to random subsets of the runs.

    python -m benchmarks.swarms DATA [--subsets 10] [--sizes 32,64,128,256,512] [--only regmix]

DATA holds ``regmix_swarm/`` (RegMix, arXiv 2407.01492: 512 proxies of 1M parameters over 17
domains, 13 losses; 256 held-out mixtures at 1M and at 60M) and ``olmix_swarm/`` (Olmix, arXiv
2602.12237: 64 proxies of 30M over 22 domains, 110 tasks). Every regressor is fitted, calibrated
and, for ``auto``, chosen on the subset alone; the held-out mixtures only score. Olmix's runs are
scored by an outer 5-fold. Per regressor: Spearman x100, mean squared error in variances, share of
truths in 90 % intervals, regret of the mixture it would pick among the held-out ones (per cent of
their range), seconds on one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmix.config import FitConfig
from regmix.fit import (
    choose,
    draw_folds,
    fit_chosen,
    rank_correlation,
    try_candidates,
    with_ensemble,
)
from regmix.imports import read_csvs
from regmix.regressors import CANDIDATES, Context, Prediction
from regmix.regressors.held_out import HeldOut, conformal_scale

AUTO = "auto"
TARGET = "the_pile_pile_cc"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Swarm:
    """Runs to fit, and held-out sets of mixtures that judge."""

    x: np.ndarray
    y: np.ndarray
    metrics: tuple[str, ...]
    tests: dict[str, tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--subsets", type=int, default=10)
    parser.add_argument("--sizes", default="32,64,128,256,512")
    parser.add_argument("--only", choices=["regmix", "olmix"])
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if args.only != "olmix":
        swarm = read_regmix(args.data / "regmix_swarm")
        sizes = [int(n) for n in args.sizes.split(",")]
        jobs = [
            (swarm, n, i) for n in sizes for i in range(1 if n >= len(swarm.x) else args.subsets)
        ]
        report(run(regmix_subset, jobs), "regmix", ["runs", "regressor"])
    if args.only != "regmix":
        swarm = read_olmix(args.data / "olmix_swarm")
        report(run(olmix_fold, [(swarm, fold, 0) for fold in range(5)]), "olmix", ["regressor"])


def run(work: Any, jobs: list[Any]) -> pd.DataFrame:
    """Carry out the jobs, one core each."""
    cores = sorted(os.sched_getaffinity(0))
    rows: list[dict[str, Any]] = []
    free: multiprocessing.Queue[int] = multiprocessing.Queue()
    for core in cores:
        free.put(core)
    with ProcessPoolExecutor(len(cores), initializer=_pin, initargs=(free,)) as pool:
        for done, found in enumerate(pool.map(work, jobs), 1):
            rows += found
            print(f"{done}/{len(jobs)}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def _pin(free: multiprocessing.Queue[int]) -> None:
    """One core a process, so that seconds mean the same for every regressor."""
    os.sched_setaffinity(0, {free.get()})


def read_regmix(folder: Path) -> Swarm:
    train = read_csvs(folder / "train_mixture_1m.csv", folder / "train_pile_loss_1m.csv")
    tests = {}
    for size in ("1m", "60m"):
        test = read_csvs(folder / f"test_mixture_{size}.csv", folder / f"test_pile_loss_{size}.csv")
        weights, metrics = test.weights[train.weights.columns], test.metrics[train.metrics.columns]
        tests[size] = (weights.to_numpy(), metrics.to_numpy())
    columns = tuple(map(str, train.metrics.columns))
    return Swarm(train.weights.to_numpy(), train.metrics.to_numpy(), columns, tests)


def read_olmix(folder: Path) -> Swarm:
    runs = read_csvs(folder / "ratios.csv", folder / "metrics.csv")
    columns = tuple(map(str, runs.metrics.columns))
    return Swarm(runs.weights.to_numpy(), runs.metrics.to_numpy(), columns, {})


def predictions(
    x: np.ndarray, y: np.ndarray, tests: dict[str, np.ndarray]
) -> dict[str, tuple[dict[str, list[Prediction]], float]]:
    """By regressor: calibrated predictions of every test set and metric, and seconds."""
    config, context = FitConfig(), Context()
    folds = draw_folds(len(x), config)
    held: dict[str, HeldOut] = {}
    seconds = {}
    for name in CANDIDATES:
        began = time.perf_counter()
        held |= try_candidates(name, x, y, context, folds, None)
        seconds[name] = time.perf_counter() - began
    began = time.perf_counter()
    options = with_ensemble(held, y, folds)
    chosen = [choose(options, i, y[:, i], AUTO, folds)[0] for i in range(y.shape[1])]
    seconds["ensemble"] = seconds[AUTO] = sum(seconds.values()) + time.perf_counter() - began
    found = {}
    for name in seconds:
        began = time.perf_counter()
        each = chosen if name == AUTO else [name] * y.shape[1]
        models = fit_chosen(each, options, x, y, context)
        scales = [conformal_scale(y[:, i], options[n].metric(i)) for i, n in enumerate(each)]
        shown = {
            test: [_scaled(m.predict(at), s) for m, s in zip(models, scales, strict=True)]
            for test, at in tests.items()
        }
        found[name] = (shown, seconds[name] + time.perf_counter() - began)
    return found


def _scaled(prediction: Prediction, scale: float) -> Prediction:
    return Prediction(prediction.mean, prediction.std * scale)


def regmix_subset(job: tuple[Swarm, int, int]) -> list[dict[str, Any]]:
    """One random subset of RegMix's runs: one row a regressor."""
    swarm, runs, seed = job
    rows = np.sort(np.random.default_rng([seed, runs]).permutation(len(swarm.x))[:runs])
    tests = {size: at for size, (at, _) in swarm.tests.items()}
    found = predictions(swarm.x[rows], swarm.y[rows], tests)
    target = [i for i, m in enumerate(swarm.metrics) if m == TARGET]
    table = []
    for name, (shown, seconds) in found.items():
        row: dict[str, Any] = {"runs": runs, "regressor": name}
        for size, (_, truth) in swarm.tests.items():
            own = shown[size]
            rank = [100 * rank_correlation(truth[:, i], p.mean) for i, p in enumerate(own)]
            row[f"target_{size}"] = rank[target[0]]
            row[f"mean_{size}"] = float(np.mean(rank))
            if size == "1m":
                row |= accuracy(own, truth)
        table.append({**row, "seconds": seconds})
    return table


def accuracy(own: list[Prediction], truth: np.ndarray) -> dict[str, float]:
    """Means over the metrics of squared error (in variances), coverage and regret."""
    mse, cover, regret = [], [], []
    for i, p in enumerate(own):
        y = truth[:, i]
        mse.append(((y - p.mean) ** 2).mean() / y.var())
        cover.append((np.abs(y - p.mean) <= 1.6449 * p.std).mean())
        regret.append((y[p.mean.argmin()] - y.min()) / np.ptp(y))
    return {
        "mse": float(np.mean(mse)),
        "coverage": 100 * float(np.mean(cover)),
        "regret": 100 * float(np.mean(regret)),
    }


def olmix_fold(job: tuple[Swarm, int, int]) -> list[dict[str, Any]]:
    """One outer fold of Olmix's runs: one row a regressor, metric and run."""
    swarm, fold, _ = job
    out = np.random.default_rng(11).permutation(len(swarm.x)) % 5 == fold
    found = predictions(swarm.x[~out], swarm.y[~out], {"out": swarm.x[out]})
    runs = np.flatnonzero(out)
    return [
        {
            "regressor": name, "metric": swarm.metrics[i], "run": int(r), "truth": swarm.y[r, i],
            "mean": p.mean[k], "std": p.std[k], "seconds": seconds,
        }
        for name, (shown, seconds) in found.items()
        for i, p in enumerate(shown["out"])
        for k, r in enumerate(runs)
    ]  # fmt: skip


def report(rows: pd.DataFrame, name: str, by: list[str]) -> None:
    """Print and keep the table: mean and standard deviation over subsets, or over metrics."""
    if name == "olmix":
        groups = rows.groupby(["regressor", "metric"], sort=False)
        rows = pd.DataFrame([_metric_row(*map(str, key), group) for key, group in groups])
    order = list(dict.fromkeys(rows["regressor"]))
    grouped = rows.drop(columns=["metric"], errors="ignore").groupby(by)
    table = grouped.mean().round(4)
    spread = grouped.std().round(3)
    for column in [c for c in table if c.startswith(("target", "mean", "spearman"))]:
        table.insert(list(table).index(column) + 1, f"{column}_sd", spread[column])
    table = table.reset_index().sort_values(
        by, key=lambda c: c.map(order.index) if c.name == "regressor" else c
    )
    print(table.to_string(index=False), flush=True)
    table.to_csv(RESULTS / f"swarms-{name}.csv", index=False)


def _metric_row(regressor: str, metric: str, group: pd.DataFrame) -> dict[str, Any]:
    truth, mean = group["truth"].to_numpy(), group["mean"].to_numpy()
    return {
        "regressor": regressor,
        "metric": metric,
        "spearman": 100 * rank_correlation(truth, mean),
        "mse": ((truth - mean) ** 2).mean() / truth.var(),
        "coverage": 100 * (np.abs(truth - mean) <= 1.6449 * group["std"]).mean(),
        "seconds": group["seconds"].iloc[0],
    }


if __name__ == "__main__":
    main()
