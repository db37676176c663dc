"""Matrix products of a model array: one a member, in single precision, by the fastest way there is.

On a CPU that is oneDNN, whose kernels use AVX-512 wherever the processor has it, or the BLAS behind
``torch.mm``, which does so on some makers' processors only (docs/DECISIONS.md has the figures).
torch hands products of single precision to oneDNN when half precision is allowed for them.
Processors with matrix units of half precision would then use those, so the allowance is given only
where a trial shows that products stay exact, and only for the product at hand; the BLAS does the
others' products, one after the other.

Shapes are in suffixes: K members, N rows, M inputs, O outputs.
"""

from __future__ import annotations

from functools import lru_cache
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_ONEDNN: Any = torch.backends.mkldnn
_EXACT = 1e-5
"""Largest relative error of a product of 80 terms: single precision gives 1e-7, half 1e-3."""


def on_cpu(x: Tensor) -> bool:
    """Whether the CPU's kernels take this tensor; other types and devices go the general way."""
    single = x.device.type == "cpu" and x.dtype == torch.float32
    return single and not torch.is_autocast_enabled("cpu")


def matmul(a_KNM: Tensor, b_KMO: Tensor) -> Tensor:
    """Every member's product ``(K, N, O)``; on a CPU without a gradient.

    What one member comes to does not depend, to the bit, on how many there are.
    """
    if not on_cpu(a_KNM):
        return torch.bmm(a_KNM, b_KMO)
    if not batches_are_exact():
        return _one_by_one(a_KNM, b_KMO)
    with _OneDNN():
        if len(a_KNM) == 1:  # oneDNN is slower at batches of one
            return torch.mm(a_KNM[0], b_KMO[0])[None]
        return torch.bmm(a_KNM, b_KMO)


def batched(a_BNM: Tensor, b_BMO: Tensor, out: Tensor | None = None) -> Tensor:
    """Products of many small matrices on a CPU, ``(B, N, O)``; no gradient."""
    if not batches_are_exact():
        return torch.bmm(a_BNM, b_BMO, out=out)
    with _OneDNN():
        return torch.bmm(a_BNM, b_BMO, out=out)


def _one_by_one(a_KNM: Tensor, b_KMO: Tensor) -> Tensor:
    """Each product by the BLAS, straight to its place: what stacks them would cost a tenth."""
    found_KNO = a_KNM.new_empty(len(a_KNM), a_KNM.shape[1], b_KMO.shape[2])
    for a, b, found in zip(a_KNM, b_KMO, found_KNO, strict=True):
        torch.mm(a, b, out=found)
    return found_KNO


class _OneDNN:
    """Products inside go to oneDNN; only where :func:`batches_are_exact`."""

    def __enter__(self) -> None:
        self._before = _ONEDNN.matmul.fp32_precision
        _ONEDNN.matmul.fp32_precision = "bf16"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _ONEDNN.matmul.fp32_precision = self._before


@lru_cache(maxsize=1)
def batches_are_exact() -> bool:
    """Whether oneDNN's batches keep single precision on this processor, each as it is alone."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    random = torch.Generator().manual_seed(0)
    a_KNM = torch.rand(3, 64, 80, generator=random)
    b_KMO = torch.rand(3, 80, 48, generator=random)
    with _OneDNN():
        found = torch.bmm(a_KNM, b_KMO)
        alone = torch.stack([torch.mm(a, b) for a, b in zip(a_KNM, b_KMO, strict=True)])
    true = torch.bmm(a_KNM.double(), b_KMO.double())
    return torch.equal(found, alone) and bool(((found - true).abs() < _EXACT * true).all())
