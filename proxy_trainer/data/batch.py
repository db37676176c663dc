"""One step's data: blocks of tokens, and what is to be learnt of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Blocks of ``T`` tokens, each with the token after; any leading dimensions, blocks the last.

    What is ``None`` is the same for all batches of a run, so that a step can be compiled for it.
    """

    tokens: Tensor
    """Ids, ``(..., B, T + 1)``."""
    counts: Tensor | None = None
    """What each target counts for, ``(..., B, T)``, 0 or 1; 1 for all if not given."""
    documents: Tensor | None = None
    """The document that each token belongs to, ``(..., B, T)``; attention stays inside them."""

    def part(self, rows: slice) -> Batch:
        """Some of the blocks."""
        return self._map(lambda x: x[..., rows, :])

    def clone(self) -> Batch:
        """Tensors of its own."""
        return self._map(Tensor.clone)

    def copy_(self, other: Batch) -> None:
        """Take over another batch's values, in place."""
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new)

    def _tensors(self) -> list[Tensor]:
        return [x for x in (self.tokens, self.counts, self.documents) if x is not None]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.tokens),
            None if self.counts is None else change(self.counts),
            None if self.documents is None else change(self.documents),
        )
