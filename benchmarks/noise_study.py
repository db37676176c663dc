"""How much of a difference is noise, and does it hold at a larger size? A study, as people run it.

    python -m benchmarks.noise_study OUT --corpus CORPUS --eval EVAL

CORPUS holds ``train/<domain>.jsonl.zst`` and ``valid/…``, EVAL ``mmlu_test.jsonl.zst`` and
``mmlu_dev.jsonl.zst``. A swarm of proxies with three seeds at three mixtures (natural, uniform and
a lopsided one), some of the mixtures again at a larger size, all asked a sample of MMLU. Printed,
and kept in ``results/``, is what the commands say: `regmix flags`, `noise`, `fit` and `transfer`.
The study stays in OUT; running again does only what is missing.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regmix import yaml_io
from regmix.demo import domain_files
from regmix.files import write_text

PREPARE = (("data", "build"), ("propose",), ("train",))
ASKED = (("flags",), ("noise",), ("fit",), ("transfer",))
LOPSIDED = 0.7
"""Share of the first domain in the third repeated mixture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=160_000, help="of a proxy")
    parser.add_argument("--rungs", type=int, default=10, help="mixtures at the larger size")
    parser.add_argument("--rung-tokens", type=int, default=320_000)
    parser.add_argument("--limit", type=int, default=285, help="questions of MMLU")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kept", default="noise-study", help="name of the result file")
    args = parser.parse_args()
    write_study(args.out, settings(args))
    started = time.monotonic()
    for command in PREPARE:
        regmix(*command, args.out)
    prepared = time.monotonic() - started
    said = [f"$ regmix {' '.join(command)}\n{regmix(*command, args.out)}" for command in ASKED]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = time.monotonic() - started - prepared
    head = (
        f"# python -m benchmarks.noise_study OUT --runs {args.runs} --tokens {args.tokens} "
        f"--rungs {args.rungs} --rung-tokens {args.rung_tokens} --limit {args.limit}\n"
        f"# {platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}: "
        f"{prepared:.0f} s to build and train, {asked:.0f} s for the commands below; "
        f"{spent.ru_utime + spent.ru_stime:.0f} s of processor\n"
    )
    text = "\n".join([head, *said]).replace(str(args.out), "OUT")
    print(text)
    name = f"{args.kept}-{platform.machine()}.txt"
    write_text(Path(__file__).parent / "results" / name, text)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """study.yaml."""
    domains = domain_files(args.corpus.resolve())
    return {
        "name": "noise-study",
        "domains": [
            {"name": name, "train": str(train), "valid": str(valid)}
            for name, (train, valid) in domains.items()
        ],
        "proxy": {"model": {"size": "100k"}, "train": train(args.tokens)},
        "ladder": [
            {
                "model": {"size": "300k"},
                "train": train(args.rung_tokens),
                "mixtures": args.rungs,
            }
        ],
        "swarm": {"runs": args.runs, "replicates": 3, "repeat": ["uniform", "lopsided"]},
        "evaluate": {"tasks": ["mmlu"], "data": str(args.eval.resolve()), "limit": args.limit},
        "fit": {"regressor": "gp", "bootstraps": 4},
        "launch": {"workers": args.workers},
    }


def train(tokens: int) -> dict[str, Any]:
    return {
        "tokens": tokens, "batch_tokens": 256, "warmup_share": 0.4, "eval_bytes": 24_000,
        "eval_points": 2,
    }  # fmt: skip


def write_study(folder: Path, study: dict[str, Any]) -> None:
    write_text(folder / "study.yaml", yaml_io.dump(study))
    first, *others = [d["name"] for d in study["domains"]]
    weights = {first: LOPSIDED, **dict.fromkeys(others, (1 - LOPSIDED) / len(others))}
    mixture = {"kind": "mixture", "name": "lopsided", "weights": weights}
    write_text(folder / "mixes" / "lopsided.yaml", yaml_io.dump(mixture))


def regmix(*words: object) -> str:
    """A command as a person gives it; what it prints."""
    command = [sys.executable, "-m", "regmix.cli", *map(str, words)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "170"}
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: ended with {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
