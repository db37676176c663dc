"""How often every source is read over all the stages that one model goes through."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from regmix.errors import UserError
from regmix.mixture import TOLERANCE


@dataclass(frozen=True)
class Use:
    """What one stage reads of one source."""

    stage: str
    source: str
    """A domain of the study, or ``chat/`` and the name of conversations."""
    tokens: float
    available: int
    parts: tuple[str, ...] = ()
    """What it holds, whatever it is called: the contents of its files, since conversations have
    names in their stage alone. Empty: the source is its name."""

    @property
    def epochs(self) -> float:
        """Passes over the source."""
        return self.tokens / self.available


def by_source(uses: Iterable[Use]) -> dict[str, list[Use]]:
    """Uses of one and the same text together, by what it is called; the most repeated first.

    Text that has several names is called by all of them; of several texts of one name the later
    ones are told apart by their stage.
    """
    same: dict[tuple[str, ...], list[Use]] = {}
    for use in uses:
        same.setdefault(use.parts or (use.source,), []).append(use)
    found: dict[str, list[Use]] = {}
    for own in same.values():
        label = _called(own)
        found[label if label not in found else f"{label} of '{own[0].stage}'"] = own
    return dict(sorted(found.items(), key=lambda item: -epochs(item[1])))


def epochs(uses: Sequence[Use]) -> float:
    """Passes of all of them."""
    return sum(u.epochs for u in uses)


def totals(uses: Iterable[Use]) -> dict[str, float]:
    """Epochs of every source over all stages, the most repeated first."""
    return {label: epochs(own) for label, own in by_source(uses).items()}


def check(uses: Iterable[Use], max_epochs: float, where: str) -> None:
    """Refuse what would repeat a text too often, be it a part of several sources.

    Raises:
        UserError: the source, what each stage reads of it, and by how much that is too much.
    """
    by_part: dict[str, list[Use]] = {}
    for use in uses:
        for part in use.parts or (use.source,):
            by_part.setdefault(part, []).append(use)
    for own in sorted(by_part.values(), key=epochs, reverse=True):
        if epochs(own) <= max_epochs * (1 + TOLERANCE):  # a mixture may lie on its cap
            continue
        stages = " + ".join(f"{u.epochs:.2f} in '{u.stage}'" for u in own)
        available = min(u.available for u in own)
        over = (epochs(own) - max_epochs) * available
        raise UserError(
            f"{where}: '{_called(own)}' would be read {epochs(own):.2f} times ({stages}) of its "
            f"{available:,} tokens; max_epochs is {max_epochs:g}, short by {math.ceil(over):,} "
            "tokens"
        )


def _called(uses: Sequence[Use]) -> str:
    return " = ".join(dict.fromkeys(u.source for u in uses))
