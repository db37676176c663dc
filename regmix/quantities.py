"""Large counts, FLOPs and seconds as people say them; the terminal and the report agree."""

from __future__ import annotations

from collections.abc import Sequence

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


def _scaled(value: float, steps: Sequence[tuple[float, str]]) -> str:
    for size, suffix in steps:
        # 999,600 is 1M: what rounds up to the next unit is said in it.
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"
