"""Quantities as people write them: counts, FLOPs, seconds, and numbers with their errors.

The terminal, the report and notebooks agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "–"
"""What is not known."""
_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SI = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def amount(value: float) -> str:
    """A count of tokens, parameters or documents: 300k, 15.2M, 1.4B."""
    return _scaled(value, _COUNTS)


def flops(value: float) -> str:
    """Floating-point operations with an SI prefix: 722 GFLOP, 1.81 TFLOP."""
    number = _scaled(value, _SI)
    return f"{number[:-1]} {number[-1]}FLOP" if number[-1].isalpha() else f"{number} FLOP"


def duration(seconds: float) -> str:
    """Seconds in the unit that people would choose: 59 s, 4.1 min, 3.2 h, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    if hours < 48:
        return f"{hours:.1f} h"
    days, left = divmod(round(hours), 24)
    return f"{days} d {left} h"


def short(name: str, limit: int = 26) -> str:
    """A name that fits beside a figure: its head and its tail."""
    plain = " ".join(name.split())
    return plain if len(plain) <= limit else f"{plain[: limit - 9]}…{plain[-8:]}"


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:#.{digits}g}".removesuffix(".").replace("-", "−")


def fixed(value: float | None, decimals: int) -> str:
    """So many decimals; a dash for what is not known. What rounds to 0 has no sign."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:z.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """A difference, with its sign."""
    text = fixed(value, decimals)
    return f"+{text}" if text.strip("0.") and text[0] not in f"−{NONE}" else text


def percent(value: float | None, decimals: int = 1) -> str:
    """A share in per cent."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.{decimals}f}%"


def chance(probability: float) -> str:
    """A probability in per cent that never claims to be certain."""
    if probability > 0.99:
        return "over 99%"
    return "under 1%" if probability < 0.01 else percent(probability, 0)


def decimals_for(std: float) -> int:
    """Decimals with which two digits of an error are shown."""
    return min(8, max(0, 1 - math.floor(math.log10(std)))) if std > 0 else 4


def with_error(mean: float, std: float, sign: bool = False) -> str:
    """``0.0331 ± 0.0042``: as many decimals as the error has something to say about."""
    if not (math.isfinite(mean) and math.isfinite(std)):
        return NONE
    decimals = decimals_for(std)
    shown = signed(mean, decimals) if sign else fixed(mean, decimals)
    return f"{shown} ± {fixed(std, decimals)}"


def _scaled(value: float, steps: Sequence[tuple[float, str]]) -> str:
    for size, suffix in steps:
        # 999,600 is 1M: what rounds up to the next unit is said in it.
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"
