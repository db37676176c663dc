"""What is known of a run at one of its log points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """A run after some step, as far as training itself tells."""

    step: int
    """Steps done."""
    tokens: int
    """Trained so far."""
    loss: float
    """Of the last step: mean nats a token that counts, z-loss included."""
    grad_norm: float
    """Of the last step, before clipping."""
    lr: float
    """Of the last step."""
    skipped: int
    """Steps that were left out as spikes so far."""
    losses: Mapping[str, float]
    """Mean nats a token since the last point, by domain; without those nothing was read of."""

    def fields(self) -> dict[str, Any]:
        """As in the ``step`` event."""
        return {**asdict(self), "losses": dict(self.losses)}


@dataclass(frozen=True)
class Machine:
    """What the machine did since the last point."""

    tokens_per_second: float
    """The run's own, while it was trained: evaluations and checkpoints are left out."""
    mfu: float | None
    """Share of the devices' peak that the models on them used; None where no peak is known."""
    device_bytes: int | None
    """Most that this process ever held of its device's memory; None on a CPU."""
    process_bytes: int | None
    """Resident memory of this process now; None where the system does not tell."""

    def fields(self) -> dict[str, Any]:
        """As in the ``step`` event."""
        return asdict(self)


def scalars(point: Point, machine: Machine) -> dict[str, float]:
    """Figures by the names that trackers show them under; what is not known is left out."""
    found = {
        "train/loss": point.loss,
        "train/grad_norm": point.grad_norm,
        "train/lr": point.lr,
        "train/tokens": float(point.tokens),
        "train/skipped": float(point.skipped),
        "speed/tokens_per_second": machine.tokens_per_second,
        "speed/mfu": machine.mfu,
        "memory/device_bytes": machine.device_bytes,
        "memory/process_bytes": machine.process_bytes,
        **{f"loss/{name}": value for name, value in point.losses.items()},
    }
    return {name: float(value) for name, value in found.items() if value is not None}
