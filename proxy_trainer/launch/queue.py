"""What one worker sees of the pieces of work that are still to be done."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Generic

from proxy_trainer.launch.claims import Claimant, P, PieceClaim
from regmix import claims
from regmix.layout import Piece

NEAR = 16
"""Where to look for the other members of an array: among so many open pieces for each of them."""


class Queue(Generic[P]):
    """Open pieces of work, such as runs, in planned order.

    A piece is looked at until it is known to be closed, and again at the end if another worker had
    it: over a whole study each worker looks at each about twice, and not at all of them for each
    claim. Workers look a little apart from each other, or all would reach for the same one.

    What failed when it was last tried comes after all that did not, whoever tried it, and alone: a
    worker that is broken itself so spoils no piece again and again, and none fails for another.
    """

    def __init__(
        self,
        pieces: Iterable[P],
        claimant: Claimant,
        *,
        step: Callable[[P], int],
        key: Callable[[P], Hashable],
        workers: int = 1,
    ) -> None:
        """Nothing is read yet.

        Args:
            pieces: in planned order.
            step: of a run's checkpoint.
            key: what a piece shares with those that can be done together with it.
            workers: how many share the queue.
        """
        self._open = dict.fromkeys(pieces)
        self._failed: dict[P, None] = {}
        self._taken: dict[P, float | None] = {}
        self._claimant = claimant
        self._step, self._key = step, key
        self._workers = workers
        self._apart = random.Random()

    @property
    def length(self) -> int:
        """Pieces that are not known to be closed or taken, as far as this worker has looked."""
        return len(self._open) + len(self._failed)

    def claim(self, wanted_members: Callable[[P], int]) -> list[PieceClaim[P]]:
        """Claim an array: the first piece that can be had, and others that go with it.

        Of pieces that failed before, one.

        Args:
            wanted_members: how many pieces like this one to claim at most, itself included.

        Returns:
            Nothing if no piece can be had now.
        """
        found = list(islice(self._claims(self._order()), 1))
        if not found or found[0].failures():
            return found
        members = wanted_members(found[0].piece)
        if members > 1:
            wanted = self._key(found[0].piece), found[0].step
            near = islice(filter(_is_open, self._untried()), NEAR * members)
            alike = (piece for piece in near if self._goes_with(piece, wanted))
            found += islice(self._claims(alike), members - 1)
        return found

    def _goes_with(self, piece: P, wanted: tuple[Hashable, int]) -> bool:
        return self._step(piece) == wanted[1] and self._key(piece) == wanted[0]

    def return_(self, piece: P, *, failed: bool = False) -> None:
        """Look at what this worker released before all others or, if it failed, after them."""
        if failed:
            self._failed[piece] = None
        else:
            self._open = {piece: None, **self._open}

    def left_to_others(self) -> bool:
        """Whether everything that is left is in the hands of a worker that lives.

        A worker on this machine is seen to live, of another one is heard within a few seconds; one
        that is silent may have died, and what it had will be free before long.
        """
        for piece in list(self._taken):
            if not (piece.root.exists() and _is_open(piece)) or self._is_alive(piece):
                del self._taken[piece]
        return not self._taken

    def _is_alive(self, piece: P) -> bool:
        """Whether somebody who has the piece was heard since it was first looked at here."""
        entry = claims.last(piece.claims)
        if entry is None or entry.kind != "claimed":  # free: to be had at the next claim
            return False
        first = self._taken[piece]
        if first is None:
            self._taken[piece] = entry.renewed
        renewed = first is not None and entry.renewed > first
        return renewed or entry.heard(self._claimant.clock.now())

    def _order(self) -> Iterator[P]:
        """What to try: open pieces, then those that were taken, then those that failed."""
        yield from self._untried()
        yield from list(self._failed)

    def _untried(self) -> Iterator[P]:
        """Open pieces as planned, give or take a few, then those that were taken."""
        pieces = list(self._open)
        for start in range(0, len(pieces), self._workers):
            near = pieces[start : start + self._workers]
            self._apart.shuffle(near)
            yield from near
        yield from list(self._taken)

    def _claims(self, pieces: Iterable[P]) -> Iterator[PieceClaim[P]]:
        for piece in pieces:
            first_look = piece in self._open
            self._open.pop(piece, None)
            if not _is_open(piece):
                self._failed.pop(piece, None)
                self._taken.pop(piece, None)
                continue
            if first_look and _has_failed(piece):
                self._failed[piece] = None
                continue
            self._failed.pop(piece, None)
            claim = self._claimant.take(piece, self._step(piece))
            if claim is None:
                self._taken.setdefault(piece, None)
            else:
                self._taken.pop(piece, None)
                yield claim


def _is_open(piece: Piece) -> bool:
    return not (os.path.exists(piece.done) or os.path.exists(piece.failed))


def _has_failed(piece: Piece) -> bool:
    entry = claims.last(piece.claims)
    return entry is not None and entry.failed
