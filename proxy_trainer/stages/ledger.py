"""How often every source is read over all the stages that one model goes through."""

from __future__ import annotations

from collections.abc import Iterable
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

    @property
    def epochs(self) -> float:
        """Passes over the source."""
        return self.tokens / self.available


def totals(uses: Iterable[Use]) -> dict[str, float]:
    """Epochs of every source over all stages, the most repeated first."""
    found: dict[str, float] = {}
    for use in uses:
        found[use.source] = found.get(use.source, 0.0) + use.epochs
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def check(uses: Iterable[Use], max_epochs: float, where: str) -> None:
    """Refuse what would repeat a source too often.

    Raises:
        UserError: the source, what each stage reads of it, and by how much that is too much.
    """
    uses = list(uses)
    for source, epochs in totals(uses).items():
        if epochs <= max_epochs:
            continue
        own = [u for u in uses if u.source == source]
        parts = " + ".join(f"{u.epochs:.2f} in '{u.stage}'" for u in own)
        available = own[-1].available
        over = sum(u.tokens for u in own) - max_epochs * available
        raise UserError(
            f"{where}: '{source}' would be read {epochs:.2f} times ({parts}) of its "
            f"{available:,} tokens; max_epochs is {max_epochs:g}, short by {int(over):,} tokens"
        )
