"""How often every source is read over all the stages that one model goes through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from regmix.errors import UserError


@dataclass(frozen=True)
class Use:
    """What one stage reads of one source."""

    stage: str
    source: str
    """A domain of the study, or ``chat/`` and the name of conversations."""
    tokens: float
    available: int
    content: str = ""
    """What it is, whatever it is called: conversations have names in their stage alone. Empty: the
    source is its name."""

    @property
    def epochs(self) -> float:
        """Passes over the source."""
        return self.tokens / self.available


def by_source(uses: Iterable[Use]) -> dict[str, list[Use]]:
    """Uses of one and the same text together, by what it is called; the most repeated first.

    Text that has several names is called by all of them; of several texts of one name the later
    ones are told apart by their stage.
    """
    same: dict[str, list[Use]] = {}
    for use in uses:
        same.setdefault(use.content or use.source, []).append(use)
    found: dict[str, list[Use]] = {}
    for own in same.values():
        label = " = ".join(dict.fromkeys(u.source for u in own))
        found[label if label not in found else f"{label} of '{own[0].stage}'"] = own
    return dict(sorted(found.items(), key=lambda item: -epochs(item[1])))


def epochs(uses: Sequence[Use]) -> float:
    """Passes of all of them."""
    return sum(u.epochs for u in uses)


def totals(uses: Iterable[Use]) -> dict[str, float]:
    """Epochs of every source over all stages, the most repeated first."""
    return {label: epochs(own) for label, own in by_source(uses).items()}


def check(uses: Iterable[Use], max_epochs: float, where: str) -> None:
    """Refuse what would repeat a source too often.

    Raises:
        UserError: the source, what each stage reads of it, and by how much that is too much.
    """
    for source, own in by_source(uses).items():
        if epochs(own) <= max_epochs:
            continue
        parts = " + ".join(f"{u.epochs:.2f} in '{u.stage}'" for u in own)
        available = own[-1].available
        over = sum(u.tokens for u in own) - max_epochs * available
        raise UserError(
            f"{where}: '{source}' would be read {epochs(own):.2f} times ({parts}) of its "
            f"{available:,} tokens; max_epochs is {max_epochs:g}, short by {int(over):,} tokens"
        )
