"""How many tokens a second do model arrays train on a GPU, and what share of its peak is that?

    python -m benchmarks.gpu [--members 1,8,32] [--executions eager,compiled,graph] [--seconds 10]

Shapes: RegMix's proxy (arXiv 2407.01492: 256 wide, 2 layers, MLP 512, 8 heads, vocabulary 50,432,
2,048 positions, 1M tokens a step; published: 512 proxies of 1B tokens in 720 GPU hours, which is
207 thousand tokens/s), the same with a vocabulary of 8,192, and our 15M and 60M proxies. Random
tokens on the device; the data's part is measured by `benchmarks.throughput`. Utilisation is against
the data sheet's dense bf16 peak of the detected chip. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from proxy_trainer.data.batch import Batch
from proxy_trainer.execution import Execution
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
    parser.add_argument("--members", default="1,8,32")
    parser.add_argument("--executions", default="eager,compiled,graph")
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU on this machine")
        return
    rows = []
    members = [int(k) for k in args.members.split(",")]
    for name, k, execution in itertools.product(SHAPES, members, args.executions.split(",")):
        rows.append({"shape": name, "members": k, "execution": execution})
        rows[-1] |= measure(name, k, execution, args.seconds)
        print(rows[-1], flush=True)
    chip = torch.cuda.get_device_name().replace(" ", "-")
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / f"gpu-{chip}.csv", index=False)
    print(table.to_string(index=False))


def measure(name: str, members: int, execution: Execution, seconds: float) -> dict[str, Any]:
    """Tokens a second over so many seconds, after the first steps."""
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
        batch = torch.randint(vocabulary, size, device=device)
        steps = _steps(array, batch, made.lr, seconds)
    except torch.OutOfMemoryError:
        return {"note": "out of memory"}
    rate = steps * batch[..., 1:].numel()
    peak = peak_flops(torch.cuda.get_device_name())
    return {
        "tokens_s": round(rate),
        "over_published": round(rate / PUBLISHED, 2),
        "mfu": round(rate * model.flops_per_token(vocabulary) / peak, 4) if peak else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }


def _steps(array: Members, batch: torch.Tensor, lr: float, seconds: float) -> float:
    """Steps a second; the first ones compile, choose kernels and record."""
    rates = [lr] * len(batch)
    for step in range(6):
        array.step(step, Batch(batch), rates)
    torch.cuda.synchronize()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            array.step(done, Batch(batch), rates)
            done += 1
        torch.cuda.synchronize()
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
