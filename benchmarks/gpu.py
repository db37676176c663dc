"""How many tokens a second do model arrays train on a GPU, and what share of its peak is that?

    python -m benchmarks.gpu [--shapes "regmix 1M, 50k;regmix 1M, 8k"] [--members 1,8,32]
        [--executions eager,compiled,graph] [--seconds 5] [--out FILE]

Shapes: RegMix's proxy (arXiv 2407.01492: 256 wide, 2 layers, MLP 512, 8 heads, vocabulary 50,432,
2,048 positions, 1M tokens a step; published: 512 proxies of 1B tokens in 720 GPU hours, which is
207 thousand tokens/s), the same with a vocabulary of 8,192, and our 15M and 60M proxies. Random
tokens on the device: looking blocks up there and copying their places are not measured. A step's
time is the median of steps timed one by one with events of the device, after those that compile,
choose kernels and record; there are at most as many as fit into ``--seconds``, and at least three.
Each row is written as it is measured, and rows that are there already are left out, so that a run
that is cut off goes on. Utilisation is against the data sheet's dense bf16 peak of the detected
chip. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from proxy_trainer.data.batch import Batch
from proxy_trainer.execution import Execution, first_steps
from proxy_trainer.hardware import peak_flops
from proxy_trainer.members import Members
from regmix.config import ModelConfig, TrainConfig
from regmix.sizes import ModelShape, plan, shape

RESULTS = Path(__file__).parent / "results"
PUBLISHED = 512 * 1e9 / (720 * 3600)
"""Tokens a second of one GPU in RegMix's swarm."""
REGMIX = ModelShape(256, 2, 8, 8, 512, 2048, False, False)
SHAPES: dict[str, tuple[ModelShape, int, int]] = {
    "regmix 1M, 50k": (REGMIX, 50_432, 2**20),
    "regmix 1M, 8k": (REGMIX, 8_192, 2**20),
    "15m, 8k": (shape(ModelConfig(size="15m")), 8_192, 2**17),
    "60m, 8k": (shape(ModelConfig(size="60m")), 8_192, 2**18),
}
"""Shape, vocabulary and tokens a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=";".join(SHAPES), help="separated by semicolons")
    parser.add_argument("--members", default="1,8,32")
    parser.add_argument("--executions", default="eager,compiled,graph")
    parser.add_argument("--seconds", type=float, default=5.0, help="of steps that are timed")
    parser.add_argument("--out", type=Path, help="default: results/gpu-CHIP.csv")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU on this machine")
        return
    chip = torch.cuda.get_device_name().replace(" ", "-")
    out = args.out or RESULTS / f"gpu-{chip}.csv"
    members = [int(k) for k in args.members.split(",")]
    wanted = itertools.product(args.shapes.split(";"), members, args.executions.split(","))
    there = _measured(out)
    for name, k, execution in wanted:
        if (name, k, execution) in there:
            continue
        row = {"shape": name, "members": k, "execution": execution}
        _append(out, row | measure(name, k, execution, args.seconds))
    print(pd.read_csv(out).to_string(index=False))


COLUMNS = ("shape", "members", "execution", "tokens_s", "low", "high", "steps", "over_published",
           "mfu", "peak_gib", "first_steps_s", "note")  # fmt: skip


def _measured(path: Path) -> set[tuple[str, int, str]]:
    """What a table has rows of."""
    if not path.exists():
        return set()
    rows = pd.read_csv(path)[["shape", "members", "execution"]]
    return {(str(s), int(k), str(e)) for s, k, e in rows.itertuples(index=False)}


def _append(path: Path, row: dict[str, Any]) -> None:
    """Write a row to a table, which is whole after each."""
    print(row, flush=True)
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def measure(name: str, members: int, execution: Execution, seconds: float) -> dict[str, Any]:
    """Tokens a second: by the median step, the slowest and the fastest."""
    model, vocabulary, tokens = SHAPES[name]
    made = plan(TrainConfig(tokens=2**40, batch_tokens=tokens), model)
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        array = Members(
            model, vocabulary, made, range(members),
            device=device, separator=0, execution=execution,
        )  # fmt: skip
        size = (members, made.batch, model.context + 1)
        batch = Batch(torch.randint(vocabulary, size, device=device))
        first, times = _timed(array, batch, [made.lr] * members, execution, seconds)
    except torch.OutOfMemoryError:
        return {"note": "out of memory"}
    work = batch.tokens[..., 1:].numel()
    rate = work / statistics.median(times)
    peak = peak_flops(torch.cuda.get_device_name())
    return {
        "tokens_s": round(rate),
        "low": round(work / max(times)),
        "high": round(work / min(times)),
        "steps": len(times),
        "over_published": round(rate / PUBLISHED, 2),
        "mfu": round(rate * model.flops_per_token(vocabulary) / peak, 4) if peak else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "first_steps_s": round(first, 1),
    }


LEAST_STEPS = 3


def _timed(
    array: Members, batch: Batch, rates: list[float], execution: Execution, seconds: float
) -> tuple[float, list[float]]:
    """Seconds of the first steps together, and of each of those after them."""
    began = time.perf_counter()
    for step in range(first_steps(execution)):
        array.step(step, batch, rates)
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    events = [torch.cuda.Event(enable_timing=True)]
    events[0].record()
    began = time.perf_counter()
    while len(events) <= LEAST_STEPS or time.perf_counter() - began < seconds:
        array.step(len(events), batch, rates)
        events.append(torch.cuda.Event(enable_timing=True))
        events[-1].record()
        if len(events) > 2:  # at most two steps ahead, so that the clock above is the device's
            events[-2].synchronize()
    torch.cuda.synchronize()
    return first, [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(events)]


if __name__ == "__main__":
    main()
