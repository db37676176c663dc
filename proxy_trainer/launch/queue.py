"""What one worker sees of the runs that are still to be trained."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice

from proxy_trainer.launch.claims import Claimant, RunClaim
from regmix import claims
from regmix.layout import RunLayout, StudyLayout

NEAR = 16
"""Where to look for the other members of an array: among so many open runs for each of them."""


class Queue:
    """Open runs in planned order.

    A run is looked at until it is known to be closed, and again at the end if another worker had
    it: over a whole study each worker looks at each run about twice, and not at all of them for
    each claim. Workers look a little apart from each other, or all would reach for the same run.
    """

    def __init__(
        self,
        study: StudyLayout,
        run_ids: Iterable[str],
        claimant: Claimant,
        *,
        step: Callable[[RunLayout], int],
        key: Callable[[RunLayout], Hashable],
        workers: int = 1,
    ) -> None:
        """Nothing is read yet.

        Args:
            run_ids: in planned order.
            step: of a run's checkpoint.
            key: what a run shares with those that can be trained together with it.
            workers: how many share the queue.
        """
        self._study = study
        self._runs = os.fspath(study.runs)
        self._open = dict.fromkeys(run_ids)
        self._taken: dict[str, float | None] = {}
        self._claimant = claimant
        self._step, self._key = step, key
        self._workers = workers
        self._apart = random.Random()

    @property
    def length(self) -> int:
        """Runs that are not known to be closed or taken, as far as this worker has looked."""
        return len(self._open)

    def claim(self, wanted_members: Callable[[RunLayout], int]) -> list[RunClaim]:
        """Claim an array: the first run that can be had, and others that go with it.

        Args:
            wanted_members: how many runs like this one to claim at most, itself included.

        Returns:
            None if no run can be had now.
        """
        found = list(islice(self._claims(self._order()), 1))
        members = wanted_members(found[0].run) if found else 0
        if members > 1:
            wanted = self._key(found[0].run), found[0].step
            near = islice(filter(self._is_open, self._order()), NEAR * members)
            alike = (r for r in near if self._goes_with(self._study.run(r), wanted))
            found += islice(self._claims(alike), members - 1)
        return found

    def _goes_with(self, run: RunLayout, wanted: tuple[Hashable, int]) -> bool:
        return self._step(run) == wanted[1] and self._key(run) == wanted[0]

    def return_(self, run: RunLayout) -> None:
        """Look at a run that this worker released before all others."""
        self._open = {run.run_id: None, **self._open}

    def left_to_others(self) -> bool:
        """Whether every run that is left is in the hands of a worker that lives.

        A worker on this machine is seen to live, of another one is heard within a few seconds; one
        that is silent may have died, and its run will be free before long.
        """
        for run in map(self._study.run, list(self._taken)):
            if not (run.root.exists() and self._is_open(run.run_id)) or self._is_alive(run):
                del self._taken[run.run_id]
        return not self._taken

    def _is_alive(self, run: RunLayout) -> bool:
        """Whether somebody who has the run was heard since it was first looked at here."""
        entry = claims.last(run.claims)
        if entry is None or entry.kind != "claimed":  # free: to be had at the next claim
            return False
        first = self._taken[run.run_id]
        if first is None:
            self._taken[run.run_id] = entry.renewed
        renewed = first is not None and entry.renewed > first
        return renewed or entry.heard(self._claimant.clock.now())

    def _order(self) -> Iterator[str]:
        """Runs to try: the open ones as planned, give or take a few, then those that were taken."""
        ids = list(self._open)
        for start in range(0, len(ids), self._workers):
            near = ids[start : start + self._workers]
            self._apart.shuffle(near)
            yield from near
        yield from list(self._taken)

    def _claims(self, run_ids: Iterable[str]) -> Iterator[RunClaim]:
        for run_id in run_ids:
            self._open.pop(run_id, None)
            if not self._is_open(run_id):
                self._taken.pop(run_id, None)
                continue
            run = self._study.run(run_id)
            claim = self._claimant.take(run, self._step(run))
            if claim is None:
                self._taken.setdefault(run_id, None)
            else:
                self._taken.pop(run_id, None)
                yield claim

    def _is_open(self, run_id: str) -> bool:
        """Whether a run is still to be trained; asked of every run by every worker, so in haste."""
        folder = f"{self._runs}/{run_id}/"
        return not (os.path.exists(folder + "DONE") or os.path.exists(folder + "FAILED"))
