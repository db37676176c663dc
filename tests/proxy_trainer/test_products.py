"""Matrix products of members: exact, and to the bit independent of how many there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proxy_trainer.models import products

sizes = st.integers(1, 96)


@pytest.fixture(params=["batches", "one by one"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a CPU, whichever this processor takes by itself."""
    if request.param == "one by one":
        monkeypatch.setattr(products, "batches_are_exact", lambda: False)
    elif not products.batches_are_exact():
        pytest.skip("oneDNN's batches are not exact on this processor")


def operands(k: int, n: int, m: int, o: int, *, flipped: bool) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(k * 7 + n * 5 + m * 3 + o)
    a = torch.randn(k, n, m, generator=random)
    b = torch.randn(k, m, o, generator=random)
    return (a.mT.contiguous().mT, b.mT.contiguous().mT) if flipped else (a, b)


@pytest.mark.usefixtures("way")
def test_products_are_single_precision_whatever_the_strides() -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 5), sizes, sizes, sizes, st.booleans())
    def holds(k: int, n: int, m: int, o: int, flipped: bool) -> None:
        a, b = operands(k, n, m, o, flipped=flipped)
        true = torch.bmm(a.double(), b.double())
        scale = torch.bmm(a.double().abs(), b.double().abs())
        assert bool(((products.matmul(a, b) - true).abs() <= 3e-7 * m**0.5 * scale).all())
        out = torch.full((k, n, o), torch.nan)
        products.batched(a, b, out=out)
        assert bool(((out - true).abs() <= 3e-7 * m**0.5 * scale).all())

    holds()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [16, 40, 128])
@pytest.mark.parametrize("rows", [24, 771, 1024])
def test_company_changes_no_bit(width: int, rows: int) -> None:
    x = torch.randn(8, rows, width)
    w = torch.randn(8, width, 3 * width)
    g = torch.randn(8, rows, 3 * width)
    for a, b in ((x, w), (g, w.mT), (x.mT, g)):
        together = products.matmul(a, b)
        for members in (1, 2, 3, 5, 7):
            for first in range(8 - members + 1):
                own = slice(first, first + members)
                assert torch.equal(products.matmul(a[own], b[own]), together[own])


def test_the_allowance_is_for_the_product_alone() -> None:
    a, b = operands(2, 8, 8, 8, flipped=False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    products.matmul(a, b)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError, match=r"(?i)size|shapes|primitive descriptor"):
        products.matmul(a, b[:, :3])
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.fixture
def untried() -> Callable[[], bool]:
    """The trial itself, not what it came to before."""
    return products.batches_are_exact.__wrapped__


def test_a_processor_that_rounds_to_half_precision_is_found_out(
    monkeypatch: pytest.MonkeyPatch, untried: Callable[[], bool]
) -> None:
    """As matrix units do once they are allowed to: factors are rounded, sums are not."""
    exact = torch.bmm
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    def rounded(a: Tensor, b: Tensor) -> Tensor:
        half = a.dtype == torch.float32
        return exact(a.bfloat16().float(), b.bfloat16().float()) if half else exact(a, b)

    monkeypatch.setattr(torch, "bmm", rounded)
    assert not untried()


def test_without_its_instructions_batches_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, untried: Callable[[], bool]
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not untried()
