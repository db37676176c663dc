"""Tasks of a data build in worker processes, and what to say when one of those is killed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

from proxy_trainer.data.sources import Input
from proxy_trainer.processes import die_with_parent
from regmix.errors import RegmixError
from regmix.layout import StudyLayout


class Task(Protocol):
    """One input to be made into shards."""

    @property
    def layout(self) -> StudyLayout:
        """The study that they are for."""

    @property
    def folder(self) -> Path:
        """Where they go."""

    @property
    def item(self) -> Input:
        """What is read."""


TaskT = TypeVar("TaskT", bound=Task)
Result = dict[str, Any]

IN_PROCESS_BYTES = 2**20
"""Of files that are read in the command's own process: a second's work, and processes take
seconds to start."""

_at_work: Any = None
"""In a worker: a byte per task, shared with the command, 1 while the task is carried out."""


def carry_out(
    work: Callable[[TaskT], Result],
    tasks: Sequence[TaskT],
    workers: int,
    on_done: Callable[[TaskT, Result], None],
) -> None:
    """Do tasks, ``workers`` at a time, and hand every result on as it comes.

    Small ones are done in this process, one after the other.

    Args:
        work: does one of them; a function that another process can import.

    Raises:
        UserError: what stood in the way of one of them; those not begun are left.
        RegmixError: a worker was killed; what was finished is kept by its marker.
    """
    if _small(tasks):
        for task in tasks:
            on_done(task, work(task))
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    context = multiprocessing.get_context("spawn")
    at_work = context.RawArray("b", len(tasks))
    workers = min(workers, len(tasks))
    with ProcessPoolExecutor(workers, context, _begin, (at_work,)) as pool:
        try:
            futures: dict[Future[Result], TaskT] = {
                pool.submit(_work, work, number, task): task for number, task in enumerate(tasks)
            }
            for future in as_completed(futures):
                on_done(futures[future], future.result())
        except BrokenProcessPool as exc:
            begun = [task for task, flag in zip(tasks, at_work, strict=True) if flag]
            raise _killed(tasks[0], begun, workers) from exc
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _small(tasks: Sequence[Task]) -> bool:
    """Whether all of it is done here before a process would have started."""
    inputs = [task.item for task in tasks]
    return all(i.path for i in inputs) and sum(i.size for i in inputs) <= IN_PROCESS_BYTES


def _begin(at_work: Any) -> None:
    global _at_work
    _at_work = at_work
    die_with_parent()


def _work(work: Callable[[TaskT], Result], number: int, task: TaskT) -> Result:
    _at_work[number] = 1
    try:
        return work(task)
    finally:  # not reached in a process that is killed, which is the point
        _at_work[number] = 0


def _killed(any_task: Task, begun: Sequence[Task], workers: int) -> RegmixError:
    """What happened, to which inputs (the largest first), and what to do about it."""
    begun = sorted(begun, key=lambda task: task.item.size, reverse=True)
    what = ", ".join(f"{t.item.label} ({t.item.size / 1e6:,.1f} MB)" for t in begun)
    fewer = f"set launch.workers below {workers} in {any_task.layout.config}, or "
    return RegmixError(
        f"{any_task.folder}: a worker process was killed from outside, most often by the "
        f"system for want of memory; at work: {what or 'none, it was starting'}; "
        f"{fewer if workers > 1 else ''}split the file into smaller ones; "
        "run the same command again, it keeps what is finished"
    )
