"""What a core can do at best: products of large fp32 matrices, in FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from runner import Inputs, Job, Trainer, serve
from torch import Tensor

SIDE = 2048


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    a, b, out = (torch.ones(SIDE, SIDE) for _ in range(3))

    def step(index: int) -> Tensor:
        torch.mm(a, b, out=out)
        return out[0, 0]

    return Trainer(step, 2.0 * SIDE**3, version=torch.__version__)


if __name__ == "__main__":
    serve(build)
