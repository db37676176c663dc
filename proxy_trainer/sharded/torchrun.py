"""torchrun for one node of a gang, whose exit code tells how its processes ended.

    python -m proxy_trainer.sharded.torchrun [torchrun's options] -m MODULE ARGUMENTS

torchrun itself ends with 1 whatever its processes end with, ends on SIGUSR2, and kills processes 30
seconds after a SIGTERM: too soon for large checkpoints. Schedulers send these signals to every
process of a job. So they are left to the processes, and to whoever holds their standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from proxy_trainer.exits import BROKEN, KILLED, OK, REFUSED, REQUEUE

_TOLD_FIRST = (REFUSED, BROKEN)
"""Before other codes, where processes of a node end with several."""


def code_of(ended: Iterable[int]) -> int:
    """What exit codes come to: a refusal or an end by a signal tells more than what follows of it.

    Args:
        ended: exit codes of processes that failed; negative: the signal that killed them.
    """
    codes = set(ended)
    killed = sorted(-code for code in codes if code < 0)
    if killed:
        return KILLED + killed[0]
    known = [code for code in _TOLD_FIRST if code in codes]
    others = sorted(codes - {OK, REQUEUE})
    return [*known, *others, *codes, OK][0]


def _run(arguments: Sequence[str], codes: list[int]) -> None:
    """Be torchrun; in a thread, since in the main one it would take SIGTERM for itself."""
    try:
        run.run(run.parse_args(list(arguments)))
        codes.append(OK)
    except ChildFailedError as exc:
        for rank, failure in exc.failures.items():
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                _say(f"process {rank}: rank {rank} was killed by {name}")
        codes.append(code_of(failure.exitcode for failure in exc.failures.values()))
    except Exception as exc:  # the process's boundary: whatever it is, the person must be told
        _say(f"torchrun: {type(exc).__name__}: {exc}")
        codes.append(BROKEN)


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)


def main() -> int:
    """Entry point; the exit code of the node."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # its processes set handlers of their own
    codes: list[int] = []
    thread = threading.Thread(target=_run, args=(sys.argv[1:], codes))
    thread.start()
    thread.join()
    return codes[0] if codes else BROKEN


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as its processes do: nothing waits for peers that may be gone
