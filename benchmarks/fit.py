"""How long does a decision take? Whole fits, single regressors, and a peer's procedure beside them.

    python -m benchmarks.fit DATA [--large] [--restarts 300] [--peer-metrics 2]

DATA holds ``regmix_swarm/``: 512 runs, 17 domains, 13 metrics. Measured, each in a process of
its own so that peak memory is its own: ``regmix fit`` with ``auto`` (5-fold cross-validation,
bootstrap, solve), every single regressor's fit to all metrics, and the data-mixing law fitted as
Olmix fits it (restated: LBFGS in torch with strong Wolfe line search on the Huber loss, 300 random
restarts a metric; arXiv 2602.12237 after arXiv 2403.16952). ``--large`` adds 64 domains x 110
metrics x 512 runs of a synthetic law.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.swarms import RESULTS, Swarm, read_regmix

SINGLE = ("linear", "sqrt-ridge", "loglinear", "powerlaw", "gp", "lightgbm", "lightgbm-regmix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--restarts", type=int, default=300)
    parser.add_argument("--peer-metrics", type=int, default=2)
    args = parser.parse_args()
    folder = args.data / "regmix_swarm"
    rows = [measure("fit auto, 512 x 17 x 13", whole_fit, folder)]
    print(rows[-1], flush=True)
    for name in SINGLE:
        rows.append(measure(f"{name}, 13 metrics", single, (folder, name)))
        print(rows[-1], flush=True)
    if args.peer_metrics:
        peer = measure("torch LBFGS law", restarts, (folder, args.restarts, args.peer_metrics))
        peer["seconds"] *= 13 / args.peer_metrics
        peer["what"] += f", 13 metrics ({args.peer_metrics} measured, scaled)"
        ours = next(r["seconds"] for r in rows if r["what"].startswith("loglinear"))
        rows.append({**peer, "ratio_to_ours": round(peer["seconds"] / ours, 1)})
        print(rows[-1], flush=True)
    if args.large:
        rows.append(measure("fit auto, 512 x 64 x 110", large_fit, None))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table["cores"], table["machine"] = len(os.sched_getaffinity(0)), platform.machine()
    print(table.to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "fit.csv", index=False)


def measure(what: str, work: Callable[[Any], dict[str, Any]], argument: Any) -> dict[str, Any]:
    """Wall seconds and peak memory of some work in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(_timed, (work, argument))
    return {"what": what, **found}


def _timed(work: Callable[[Any], dict[str, Any]], argument: Any) -> dict[str, Any]:
    extra = work(argument)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**extra, "peak_mib": round(peak)}


def whole_fit(folder: Path) -> dict[str, Any]:
    """Import and fit as the commands do; seconds of the fit alone."""
    from regmix.imports import read_csvs
    from regmix.intake import create_for_import

    sources = [folder / "train_mixture_1m.csv", folder / "train_pile_loss_1m.csv"]
    with tempfile.TemporaryDirectory() as place:
        study = create_for_import(Path(place) / "study", read_csvs(*sources), sources)
        began = time.perf_counter()
        study.fit()
        return {"seconds": round(time.perf_counter() - began, 2)}


def single(argument: tuple[Path, str]) -> dict[str, Any]:
    """One regressor fitted to all metrics."""
    from regmix.regressors import regressor

    folder, name = argument
    swarm = read_regmix(folder)
    kind = regressor(name)
    kind.fit_all(swarm.x[:20], swarm.y[:20, :1])  # imports and first calls are not the fit
    began = time.perf_counter()
    kind.fit_all(swarm.x, swarm.y)
    return {"seconds": round(time.perf_counter() - began, 3)}


def restarts(argument: tuple[Path, int, int]) -> dict[str, Any]:
    """``c + exp(a + t·w)`` by LBFGS from random starts, metric by metric."""
    import torch

    folder, count, metrics = argument
    swarm: Swarm = read_regmix(folder)
    torch.manual_seed(0)
    x = torch.tensor(swarm.x)
    began = time.perf_counter()
    losses = []
    for metric in range(metrics):
        y = torch.tensor(swarm.y[:, metric])
        losses.append(min(_restart(x, y) for _ in range(count)))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "note": json.dumps([round(v, 6) for v in losses])}


def _restart(x: Any, y: Any) -> float:
    import torch

    parameters = [
        torch.rand(1, dtype=x.dtype) * y.min(),
        torch.randn(1, dtype=x.dtype),
        torch.randn(x.shape[1], dtype=x.dtype),
    ]
    for p in parameters:
        p.requires_grad_(True)
    c, a, t = parameters
    optimiser = torch.optim.LBFGS(
        parameters, lr=0.01, history_size=10, max_iter=20, line_search_fn="strong_wolfe"
    )
    loss_of = torch.nn.HuberLoss(delta=0.02)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = loss_of(c + torch.exp(a + x @ t), y)
        loss.backward()
        return loss

    last = np.inf
    for _ in range(100):
        loss = float(optimiser.step(closure).detach())
        if not np.isfinite(loss) or abs(last - loss) < 1e-9:
            break
        last = loss
    return last


def large_fit(_: None) -> dict[str, Any]:
    """512 runs of 64 domains and 110 metrics: power laws with noise."""
    from regmix.imports import read_csvs
    from regmix.intake import create_for_import

    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.full(64, 0.4), size=512)
    strength = rng.gamma(0.3, size=(110, 64))
    y = 2 + ((x + 0.02) ** -0.4) @ strength.T / 10
    y = y + 0.03 * y.std(0) * rng.standard_normal(y.shape)
    index = pd.Index([f"r{i:03d}" for i in range(512)], name="run")
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / "w.csv", Path(place) / "m.csv"]
        pd.DataFrame(x, index, [f"d{i}" for i in range(64)]).to_csv(paths[0])
        pd.DataFrame(y, index, [f"m{i}" for i in range(110)]).to_csv(paths[1])
        study = create_for_import(Path(place) / "study", read_csvs(*paths), paths)
        began = time.perf_counter()
        found = study.fit()
        scores = found.diagnostics["objective_scores"]
        return {
            "seconds": round(time.perf_counter() - began, 1),
            "note": f"held-out Spearman of the objective {scores['spearman']:.3f}",
        }


if __name__ == "__main__":
    main()
