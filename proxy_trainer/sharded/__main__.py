"""A process of a sharded run: ``torchrun --nproc-per-node N -m proxy_trainer.sharded STUDY RUN``.

Told to end by SIGTERM or SIGUSR2, in whichever process, all leave a checkpoint and exit with
``REQUEUE``; the same command goes on from there, with any number of processes.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from proxy_trainer.checkpoint import saved_step
from proxy_trainer.environment import WORKER
from proxy_trainer.exits import BROKEN, BUSY, DIVERGED, OK, REFUSED, REQUEUE
from proxy_trainer.launch.claims import Claim, Claimant
from proxy_trainer.retention import Retention
from proxy_trainer.setup import set_up
from proxy_trainer.sharded.ranks import Ranks, join
from proxy_trainer.sharded.run import Settings, train_sharded
from proxy_trainer.version import version
from proxy_trainer.worker import fail, is_of_the_study
from regmix import claims
from regmix.errors import RegmixError, StudyRefused, UserError
from regmix.layout import RunLayout, StudyLayout


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("proxy_trainer.sharded", description=__doc__)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("run_id", help="folder of the run in the study's runs/")
    parser.add_argument("--checkpoint-seconds", type=float, default=600.0)
    parser.add_argument("--keep-last", type=int, default=2, help="checkpoints of the run")
    parser.add_argument(
        "--keep-every", type=int, metavar="STEPS", help="checkpoints that stay for good"
    )
    parser.add_argument(
        "--claim-seconds", type=float, default=120.0,
        help="a first process that is silent for so long has lost the run to others",
    )  # fmt: skip
    parser.add_argument(
        "--hybrid", action="store_true", help="shard inside nodes, replicate over nodes"
    )
    parser.add_argument(
        "--recompute", action="store_true", help="keep no activations: less memory, more work"
    )
    parser.add_argument("--compile", action="store_true", help="compile blocks with torch.compile")
    parser.add_argument("--rows", type=int, help="sequences a process computes at once")
    parser.add_argument(
        "--watch", action="append", default=[], metavar="TRACKER", help="wandb or trackio"
    )
    parser.add_argument(
        "--timeout-seconds", type=float, default=600.0, help="how long a silent process is awaited"
    )
    parser.add_argument("--regmix", help="version that has to be here; default: the first's")
    parser.add_argument(
        "--until-eof", action="store_true", help="end, with a checkpoint, as standard input ends"
    )
    parser.add_argument(
        "--end-seconds",
        type=float,
        default=60.0,
        help="with --until-eof: for the checkpoint; a process that hangs then ends without",
    )
    return parser.parse_args(argv)


def work(asked: argparse.Namespace, ranks: Ranks, stop: list[int]) -> int:
    """Train the run unless it is done or others are at it; the first process claims it for all.

    Args:
        stop: signals that asked this process to end.
    """
    _check_version(asked.regmix, ranks)
    study = StudyLayout(asked.study.expanduser().resolve())
    run = study.run(asked.run_id)
    if not run.spec.exists():
        raise UserError(f"{run.spec}: no such run")
    settings = Settings(
        asked.checkpoint_seconds, asked.recompute, asked.compile, asked.rows, tuple(asked.watch),
        Retention(asked.keep_last, asked.keep_every),
    )  # fmt: skip
    with ExitStack() as stack:
        mine = (
            stack.enter_context(_claimed(study, run, asked.claim_seconds))
            if ranks.first
            else _Nobodys()
        )
        busy, done = ranks.any(mine.busy, ranks.first and run.done.exists())
        if done:
            return OK
        if busy:
            _say(ranks.rank, f"run {asked.run_id}: being trained by another command")
            return BUSY
        outcome = train_sharded(
            study, run, ranks, settings, keep_going=lambda: mine.holds() and not stop
        )
        if outcome.diverged and ranks.first:
            fail(run, [outcome.diverged[asked.run_id]])
    if outcome.diverged:
        return DIVERGED
    if outcome.stopped:
        _say(ranks.rank, f"run {asked.run_id}: told to end; a checkpoint is left")
        return REQUEUE
    return OK


def _check_version(wanted: str | None, ranks: Ranks) -> None:
    """Make sure that all processes are of one version, and of the command's if there is one.

    Raises:
        StudyRefused: one of them is not; that one has said which it has.
    """
    source = version().partition("+")[2]
    same = version() == wanted if wanted else ranks.of_first(int(source, 16)) == [int(source, 16)]
    if not same:
        what = f"; the command that started it has {wanted}" if wanted else ""
        _say(
            ranks.rank,
            f"{socket.gethostname()} has regmix {version()} in {sys.prefix}{what}; install the "
            "same version on every node, or start again if it was changed since",
            all_of_them=True,
        )
    if ranks.any(not same)[0]:
        raise StudyRefused("the processes are not of one version of regmix")


class _Nobodys:
    """What processes know of the claim that the first one holds for them."""

    busy = False

    def holds(self) -> bool:
        return True


class _Mine(_Nobodys):
    """The claim, or that there is none to be had."""

    def __init__(self, claim: Claim | None) -> None:
        self.busy = claim is None
        self._claim = claim

    def holds(self) -> bool:
        assert self._claim is not None
        self._claim.check()
        return True


@contextmanager
def _claimed(study: StudyLayout, run: RunLayout, seconds: float) -> Iterator[_Mine]:
    """Claim a run, as a worker does; given back at the end of the block.

    What is the study's, or a person's to mend, is no failed attempt at the run; whatever else it
    is, a file server that did not answer say, may go well the next time.
    """
    os.environ[WORKER] = f"{socket.gethostname()}.{os.getpid()}"
    with Claimant(study.runs, os.environ[WORKER], seconds).at_work() as claimant:
        claim = _take(claimant, run)
        try:
            yield _Mine(claim)
        except Exception as exc:
            if claim is not None:
                kind = "" if isinstance(exc, RegmixError) else f"{type(exc).__name__}: "
                failed = not (isinstance(exc, UserError) or is_of_the_study(exc))
                with suppress(RegmixError, OSError):  # the disk that stands in the way is told
                    claim.release(f"{kind}{exc}", failed=failed)
            raise
        claimant.release_all(reason="done" if run.done.exists() else "asked to end")


def _take(claimant: Claimant, run: RunLayout) -> Claim | None:
    """The claim; a holder that this machine cannot tell to be dead is given time to fall silent."""
    if run.done.exists():
        return None
    run.failed.unlink(missing_ok=True)  # it was asked for again
    before = claims.last(run.claims)
    step = saved_step(run.checkpoints)
    while (claim := claimant.take(run, step)) is None and not run.done.exists():
        now = claims.last(run.claims)
        if before is None or now is None or now.process.here:
            return None
        if (now.path, now.renewed) != (before.path, before.renewed):
            return None
        time.sleep(1)
    return claim


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of every process; what goes wrong is one line."""
    asked = _arguments(argv)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, lambda signum, _: stop.append(signum))
    if asked.until_eof:
        threading.Thread(
            target=_await_end_of_input, args=(stop, asked.end_seconds), daemon=True
        ).start()
    if not torch.cuda.is_available():
        set_up()
    rank = int(os.environ.get("RANK", "0"))
    try:
        ranks = join(hybrid=asked.hybrid, timeout_seconds=asked.timeout_seconds)
        return work(asked, ranks, stop)
    except (RegmixError, OSError) as exc:
        if rank == 0 or not isinstance(exc, UserError):
            _say(rank, str(exc), all_of_them=True)
        return REFUSED if isinstance(exc, UserError) else BROKEN
    except Exception as exc:  # the process's boundary: whatever it is, the person must be told
        _say(rank, f"{type(exc).__name__}: {exc}", all_of_them=True)
        return BROKEN


def _say(rank: int, text: str, *, all_of_them: bool = False) -> None:
    """A line for whoever started the processes, by the first of them if all would say it."""
    if rank == 0 or all_of_them:
        print(f"process {rank}: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _await_end_of_input(stop: list[int], seconds: float) -> None:
    while os.read(0, 1024):
        pass
    stop.append(signal.SIGTERM)
    time.sleep(seconds)  # a process whose peers are gone may wait for them for good
    _say(int(os.environ.get("RANK", "0")), f"hung for {seconds:g} seconds after it was told to end",
         all_of_them=True)  # fmt: skip
    os._exit(BROKEN)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips the backends' teardown, which waits for processes that may be gone
