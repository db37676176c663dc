"""torchrun on this machine, started and awaited by a command."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from proxy_trainer.launch.running import GLANCE_SECONDS, Cancelled
from proxy_trainer.sharded.ranks import part
from regmix.errors import RegmixError
from regmix.layout import StudyLayout
from regmix.runs import RunSpec

END_SECONDS = 60.0
"""Time to leave a checkpoint, when told to end, before processes are killed."""
_SAID = re.compile(r"^process \d+: (.*)$", re.MULTILINE)


def train_here(
    study: StudyLayout,
    run_id: str,
    processes: int,
    *,
    checkpoint_seconds: float,
    trackers: Sequence[str] = (),
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Train one run by several processes of this machine; they end when this one does.

    Args:
        trackers: that it is shown by, beside TensorBoard.
        on_poll: called a few times a second.

    Raises:
        UserError: its batch cannot be divided among the processes.
        Cancelled: this process was told to end; a checkpoint is left.
        RegmixError: the processes could not go on.
    """
    run = study.run(run_id)
    part(RunSpec.load(run.spec).plan.batch, 0, processes)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "-m", "proxy_trainer.sharded"),
        *(str(study.root), run_id, "--checkpoint-seconds", str(checkpoint_seconds), "--until-eof"),
        *(word for name in trackers for word in ("--watch", name)),
    ]
    told: list[int] = []
    with tempfile.TemporaryFile("w+") as said:
        with _started(command, said.fileno()) as process, _signals(told):
            while process.poll() is None and not told:
                time.sleep(GLANCE_SECONDS)
                if on_poll:
                    on_poll()
        said.seek(0)
        words = said.read()
    if run.done.exists() or run.failed.exists():
        return
    if told:
        raise Cancelled("told to end; a checkpoint is kept: run the same command again to go on")
    lines = dict.fromkeys(_SAID.findall(words)) or words.splitlines()[-1:]
    raise RegmixError("; ".join(lines) or f"torchrun ended with code {process.returncode}")


@contextmanager
def _started(command: list[str], errors: int) -> Iterator[subprocess.Popen[bytes]]:
    """The processes, in a session of their own so that Ctrl-C is this process's to hand on.

    What they read ends with this process, however that ends.
    """
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stderr=errors, start_new_session=True
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun kills those that do not end
            process.wait()


@contextmanager
def _signals(told: list[int]) -> Iterator[None]:
    """Note SIGTERM and SIGUSR2 for the length of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(n, lambda number, _: told.append(number)) for n in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
