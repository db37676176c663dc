"""The same products in oneDNN, true fp32 too.

``torch.mm`` calls MKL, which uses no AVX-512 on processors of another maker than Intel; oneDNN
does, so that it shows what the core can do. Where torch has no oneDNN, ``torch.mm`` stands in.
"""

from __future__ import annotations

from typing import Any

import torch
from runner import Inputs, Job, Trainer, serve
from sgemm import products
from torch import Tensor


def build(job: Job, inputs: Inputs, options: dict[str, Any]) -> Trainer:
    return products(_linear if torch.backends.mkldnn.is_available() else torch.mm)


def _linear(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return product


if __name__ == "__main__":
    serve(build)
