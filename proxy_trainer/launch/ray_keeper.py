"""What a Ray actor does: keeps one worker going on its node, and leaves once there is no more work.

Starting the worker belongs to the actor's making, so that Ray, which makes a lost actor again on
another node, thereby starts its worker there; a method call would be lost with its caller.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

from proxy_trainer.exits import REQUEUE
from proxy_trainer.launch.crew import Crew, JobFiles, ask_to_stop, failure
from regmix.errors import RegmixError

POLL_SECONDS = 1.0
AGAIN_SECONDS = 2.0
"""Before the worker is started again that was stopped by something else than `cancel`."""


class Keeper:
    """One worker; an instance lives in a process of its own that Ray started."""

    def __init__(self, crew: Crew, job_id: str) -> None:
        self._files = JobFiles.of(crew.study, "ray", job_id)
        self._files.ending.unlink(missing_ok=True)
        self._processes: list[subprocess.Popen[bytes]] = []
        # A worker ends with the thread that started it, which in an actor is this one.
        try:
            if not self._files.cancelled.exists():
                self._processes = crew.start(self._files)
        except RegmixError as exc:
            self._leave([], str(exc))
        else:
            threading.Thread(target=self._watch, daemon=True).start()

    def ping(self) -> None:
        """Answers, and so says that the actor is there."""

    def cancel(self) -> None:
        """Have the worker leave its checkpoints and end."""
        ask_to_stop(self._processes)

    def _watch(self) -> None:
        asked = False
        while any(p.poll() is None for p in self._processes):
            # Whoever could not reach the actor has left a file.
            if not asked and self._files.cancelled.exists():
                ask_to_stop(self._processes)
                asked = True
            time.sleep(POLL_SECONDS)
        codes = [p.returncode for p in self._processes]
        if self._files.cancelled.exists():
            self._leave(codes)
        elif REQUEUE in codes:
            time.sleep(AGAIN_SECONDS)
            os._exit(1)  # Ray makes the actor again, elsewhere if this node is on its way out
        else:
            self._leave(codes, failure(codes, self._files.log(0)))

    def _leave(self, codes: list[int], reason: str = "") -> None:
        """Write down how it ended and give the actor's resources back, for good."""
        import ray

        self._files.end(codes, reason)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
