"""Whether a worker's process is fit to work: if whatever it tries fails, its runs are not to blame.

A device that failed stays unusable until its process ends; memory that another process holds, or a
node on which something is missing, fails every run at once. Such a process ends itself, and another
begins in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy_trainer.faults import is_of_the_device
from regmix.errors import RegmixError

IN_VAIN = 3
"""Attempts in a row, at more than one run, that come to no step; then the process ends."""


class Unfit(RegmixError):
    """This process comes to nothing, whatever it tries; another in its place may."""


class Fitness:
    """What one process came to so far."""

    def __init__(self) -> None:
        self.got_on = False
        """Whether any run came to a step in this process."""
        self._in_vain: list[tuple[str, ...]] = []
        """What was tried since the last step, attempt by attempt."""
        self._stepped = False

    def begin(self) -> None:
        """An attempt begins."""
        self._stepped = False

    def step(self) -> None:
        """It comes to a step."""
        self.got_on = self._stepped = True
        self._in_vain.clear()

    def counts(self, exc: BaseException) -> bool:
        """Whether a failure is one of the runs: where a device failed that never worked, no."""
        return self.got_on or not is_of_the_device(exc)

    def failed(self, tried: Sequence[str], exc: BaseException) -> str:
        """An attempt failed; why the process is unfit to go on, empty if it is not.

        One run that fails alone, again and again, says nothing of the process: it may be all that
        is left, and FAILED has to be told of it.

        Args:
            tried: what the runs are called.
        """
        if is_of_the_device(exc):
            return "the device fails"
        if not self._stepped:
            self._in_vain.append(tuple(tried))
        if len(self._in_vain) < IN_VAIN or len(set(self._in_vain)) == 1:
            return ""
        return f"{len(self._in_vain)} attempts in a row came to no step"
