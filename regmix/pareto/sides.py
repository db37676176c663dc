"""The two sides of a trade-off: which metrics, and how they are added."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from regmix.config import ObjectiveConfig
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.mixture import FloatArray
from regmix.objective import Objective
from regmix.observations import Observations

_PATTERN = re.compile(r"[*?\[]")
_BITS = re.compile(r"^bpb/|/bpb$")


@dataclass(frozen=True)
class Side:
    """One side of the trade-off: some metrics, and how they are added."""

    name: str
    metrics: tuple[str, ...]
    signs: tuple[int, ...]
    """+1: lower is better."""
    scales: tuple[float, ...]
    """Standard deviation of each over the swarm."""
    middle: float
    """The swarm's mean, which is subtracted."""
    unit: str | None
    """Of the plain mean; None where the metrics do not share one, or it is not known."""

    @property
    def terms(self) -> dict[str, float]:
        """Weight of every metric in the side's value; positive, the sign is apart."""
        return {
            m: 1 / (len(self.metrics) * s) for m, s in zip(self.metrics, self.scales, strict=True)
        }

    @property
    def objective(self) -> Objective:
        """The side's value, up to :attr:`middle`."""
        return Objective(self.metrics, tuple(self.terms.values()), self.signs)

    @property
    def plain(self) -> Objective | None:
        """The metrics' mean in their own unit, as measured; None if they share none."""
        if self.unit is None:
            return None
        n = len(self.metrics)
        return Objective(self.metrics, (1 / n,) * n, (1,) * n)

    def measured(self, data: Observations) -> FloatArray:
        """The side's value in every run, shape ``(n_runs,)``."""
        return self.objective.value({m: data.y(m) for m in self.metrics}) - self.middle


def select(text: str, available: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The metrics that ``--x`` or ``--y`` stands for, each once.

    Args:
        text: parts between commas; each a group's name, a metric's name, a pattern (``mmlu*``), or
            an unambiguous part of a metric's name.
        available: the metrics that there are.
        groups: the study's ``objective.groups``.

    Raises:
        UserError: a part stands for nothing, or for several; with the valid choices.
    """
    found: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if not part:
            raise UserError(f"'{text}': an empty name between commas")
        for name in groups.get(part, (part,)):
            where = f"objective.groups.{part}" if part in groups else ""
            found += _metrics(name, available, where, groups)
    return list(dict.fromkeys(found))


def _metrics(
    name: str, available: Sequence[str], where: str, groups: Mapping[str, Sequence[str]]
) -> list[str]:
    if name in available:
        return [name]
    if _PATTERN.search(name):
        hits = [m for m in available if fnmatchcase(m, name)]
    else:
        hits = [m for m in available if name in m]
        if len(hits) > 1:
            place = f"{where}: " if where else ""
            raise UserError(
                f"{place}metric '{name}' could be any of {some(hits)}; write more of it, or "
                f"'*{name}*' for all of them"
            )
    if not hits:
        kind = "metric" if where or not groups else "metric or group"
        raise unknown_name(kind, name, [*available, *(() if where else groups)], where)
    return hits


def some(names: Sequence[str]) -> str:
    """Names for a message: eight, and how many there are."""
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")


def sides(x: str, y: str, data: Observations, settings: ObjectiveConfig) -> tuple[Side, Side]:
    """Both sides of the trade-off.

    Raises:
        UserError: as :func:`select`; a metric stands on both sides, or never varies.
    """
    chosen = [select(text, data.metric_names, settings.groups) for text in (x, y)]
    both = [m for m in chosen[0] if m in chosen[1]]
    if both:
        raise UserError(
            f"--x {x} and --y {y} share {some(both)}; a metric cannot be traded against itself"
        )
    first, second = (
        _make_side(name, metrics, data, settings)
        for name, metrics in zip((x, y), chosen, strict=True)
    )
    return first, second


def _make_side(
    name: str, metrics: Sequence[str], data: Observations, settings: ObjectiveConfig
) -> Side:
    scales = data.spread()[list(metrics)]
    flat = [m for m in metrics if not scales[m] > 0]
    if flat:
        raise UserError(f"{name}: {some(flat)} is the same in every run; leave it out")
    signs = tuple(sign(m, settings.directions) for m in metrics)
    side = Side(name, tuple(metrics), signs, tuple(map(float, scales)), 0.0, _unit(metrics, signs))
    return replace(side, middle=float(side.measured(data).mean()))


def _unit(metrics: Sequence[str], signs: Sequence[int]) -> str | None:
    """What all the metrics are measured in, as far as their names tell."""
    if len(metrics) == 1:
        return "bits per byte" if _BITS.search(metrics[0]) else metrics[0]
    if all(_BITS.search(m) for m in metrics) and len(set(signs)) == 1:
        return "bits per byte"
    return None
