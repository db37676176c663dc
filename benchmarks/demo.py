"""Is the demo informative? Runs `regmix demo` with several seeds and tabulates what was measured.

    python -m benchmarks.demo OUT [--corpus DIR] [--seeds 5] [--size default]

Per seed: the swarm's spread over its seed noise, the held-out rank correlation of the objective,
and the measured gain of the proposed mixture over natural and uniform at the larger size, beside
the predicted one. The demo's studies stay in OUT; running again does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd

from regmix.comparison import gains
from regmix.study import Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", default="default")
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):
        folder = args.out / f"seed-{seed}"
        run_demo(folder, args.corpus, seed, args.size)
        rows.append({"seed": seed, **measure(folder)})
        print(pd.DataFrame(rows).to_string(index=False, float_format="%.4f"), flush=True)
    table = pd.DataFrame(rows)
    wins = int(((table["gain_natural"] > 0) & (table["gain_uniform"] > 0)).sum())
    print(f"\nbeat both natural and uniform: {wins} of {len(table)} seeds")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    name = f"demo-{args.corpus.name if args.corpus else 'default'}-{platform.machine()}.csv"
    table.to_csv(results / name, index=False, float_format="%.6g")


def run_demo(folder: Path, corpus: Path | None, seed: int, size: str) -> None:
    """The command as a person would give it."""
    command = [sys.executable, "-m", "regmix.cli", "demo", str(folder), "--size", size]
    command += ["--seed", str(seed), *(["--corpus", str(corpus)] if corpus else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(folder: Path) -> dict[str, float]:
    """The figures by which a demo is judged."""
    study = Study.open(folder)
    fit, comparison = study.latest_fit(), study.comparison()
    assert comparison is not None
    found = gains(fit.proposal, comparison)
    d = fit.diagnostics
    seconds = json.loads((folder / "demo.json").read_text())["seconds"]
    return {
        "spread_over_noise": d["objective_spread"] / d["objective_noise"],
        "held_out_rho": d["objective_scores"]["spearman"],
        "gain_natural": found["natural"].mean,
        "predicted_natural": found["natural"].predicted,
        "gain_uniform": found["uniform"].mean,
        "predicted_uniform": found["uniform"].predicted,
        "seed_noise": d["objective_noise"],
        "seconds": sum(seconds.values()),
    }


if __name__ == "__main__":
    main()
