"""A process of a sharded run: ``torchrun --nproc-per-node N -m proxy_trainer.sharded STUDY RUN``.

Told to end by SIGTERM or SIGUSR2, in whichever process, all leave a checkpoint and exit with
``REQUEUE``; the same command goes on from there, with any number of processes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from proxy_trainer.processes import claimed
from proxy_trainer.sharded.ranks import Ranks, join
from proxy_trainer.sharded.run import Settings, train_sharded
from regmix.errors import RegmixError, UserError
from regmix.files import write_json
from regmix.layout import StudyLayout

OK, BROKEN, REFUSED, BUSY, DIVERGED, REQUEUE = 0, 1, 2, 3, 4, 75
"""Exit codes: the run is done; could not go on; not as it should be; another process trains the
run; it diverged and is marked; told to end, and a checkpoint is left (``EX_TEMPFAIL``)."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("proxy_trainer.sharded", description=__doc__)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("run_id", help="folder of the run in the study's runs/")
    parser.add_argument("--checkpoint-seconds", type=float, default=600.0)
    parser.add_argument(
        "--hybrid", action="store_true", help="shard inside nodes, replicate over nodes"
    )
    parser.add_argument(
        "--recompute", action="store_true", help="keep no activations: less memory, more work"
    )
    parser.add_argument("--rows", type=int, help="sequences a process computes at once")
    parser.add_argument(
        "--timeout-seconds", type=float, default=600.0, help="how long a silent process is awaited"
    )
    return parser.parse_args(argv)


def work(asked: argparse.Namespace, ranks: Ranks, stop: list[int]) -> int:
    """Train the run unless it is done or others are at it.

    Args:
        stop: signals that asked this process to end.
    """
    study = StudyLayout(asked.study)
    run = study.run(asked.run_id)
    with ExitStack() as stack:
        mine = not ranks.first or stack.enter_context(claimed(run.lock))
        busy, done = ranks.any(not mine, ranks.first and run.done.exists())
        if busy or done:
            return BUSY if busy else OK
        if ranks.first:
            run.failed.unlink(missing_ok=True)
        settings = Settings(asked.checkpoint_seconds, asked.recompute, asked.rows)
        outcome = train_sharded(study, run, ranks, settings, keep_going=lambda: not stop)
        if outcome.diverged and ranks.first:
            write_json(run.failed, {"reason": outcome.diverged[asked.run_id]})
    if outcome.diverged:
        return DIVERGED
    return REQUEUE if outcome.stopped else OK


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of every process; what goes wrong is one line."""
    asked = _arguments(argv)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda signum, _: stop.append(signum))
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # figures that do not depend on the machine
    rank = int(os.environ.get("RANK", "0"))
    try:
        ranks = join(hybrid=asked.hybrid, timeout_seconds=asked.timeout_seconds)
        return work(asked, ranks, stop)
    except (RegmixError, OSError) as exc:
        if rank == 0 or not isinstance(exc, UserError):
            print(f"process {rank}: {exc}", file=sys.stderr)
        return REFUSED if isinstance(exc, UserError) else BROKEN
    except Exception as exc:  # the process's boundary: whatever it is, the person must be told
        print(f"process {rank}: {type(exc).__name__}: {exc}", file=sys.stderr)
        return BROKEN


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips the backends' teardown, which waits for processes that may be gone
