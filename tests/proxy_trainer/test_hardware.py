"""The peak is that of the chip, and of no other whose name contains it."""

from __future__ import annotations

import pytest

from proxy_trainer.hardware import peak_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GH200 480GB", 989),
        ("AMD Instinct MI300X", 1307),
        ("AMD Instinct MI300A", 980.6),
    ],
)
def test_known_chips(name: str, tflops: float) -> None:
    assert peak_flops(name) == tflops * 1e12


def test_unknown_chips_have_no_peak() -> None:
    assert peak_flops("NVIDIA GeForce RTX 4090") is None
    assert peak_flops("cpu x86_64 AVX512") is None
    assert peak_flops("NVIDIA B2000X") is None


def test_a_slice_of_a_device_has_not_the_whole_ones_peak() -> None:
    assert peak_flops("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is None
