"""What a core does in ``torch.mm``: products of large fp32 matrices, in FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from runner import Inputs, Job, Trainer, serve
from torch import Tensor

SIDE = 2048


def products(product: Callable[[Tensor, Tensor], Tensor]) -> Trainer:
    """A trainer whose step is one product of two square matrices."""
    a, b = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    return Trainer(lambda _: product(a, b)[0, 0], 2.0 * SIDE**3, version=torch.__version__)


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    return products(torch.mm)


if __name__ == "__main__":
    serve(build)
