"""What accelerators can do by their makers' data sheets: the base of utilisation figures."""

from __future__ import annotations

DENSE_BF16_TFLOPS = {
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "B200": 2250.0,
    "GB200": 2500.0,
    "MI300X": 1307.0,
    "MI300A": 980.6,
}
"""Dense bf16 matrix products without sparsity, by words of the name that the driver gives.

NVIDIA data sheets of the A100, H100, GH200, H200, B200 (DGX B200: 72 PFLOPS with sparsity for 16
halves) and GB200 (NVL72: 360 PFLOPS with sparsity for 72), AMD's of the MI300X and MI300A. More
words stand before the ones that they contain.
"""
_PART = "MIG"
"""In the names of slices, which have some of a device's units alone."""


def peak_flops(name: str) -> float | None:
    """Peak FLOP/s of a device by its name; None where no data sheet is known."""
    words = f" {name.replace('-', ' ')} "
    if f" {_PART} " in words:
        return None
    return next((1e12 * v for part, v in DENSE_BF16_TFLOPS.items() if f" {part} " in words), None)
