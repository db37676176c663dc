"""What accelerators can do by their makers' data sheets: the base of utilisation figures."""

from __future__ import annotations

DENSE_BF16_TFLOPS = {
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "B200": 2250.0,
    "MI300X": 1307.0,
}
"""Dense bf16 matrix products without sparsity, by a part of the name that the driver gives.

NVIDIA data sheets of the A100, H100, H200 and B200 (DGX B200: 72 PFLOPS with sparsity for 16
halves), AMD's of the MI300X. Narrower names stand before the ones that they contain.
"""


def peak_flops(name: str) -> float | None:
    """Peak FLOP/s of a device by its name; None where no data sheet is known."""
    spelt = name.replace("-", " ")
    return next((1e12 * v for part, v in DENSE_BF16_TFLOPS.items() if part in spelt), None)
