"""Progress bars with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from regmix.console.terminal import console, say
from regmix.console.watching import RunLines
from regmix.quantities import duration
from regmix.records import RunRecord
from regmix.runlog import RunLog
from regmix.study import Study

POLL_SECONDS = 0.5


class _Eta(ProgressColumn):
    """Time left at the mean rate since the bar began; what was done before does not count."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields.get("begun", 0.0)
        if not task.total or done <= 0 or task.finished:
            return Text("")
        left = (task.elapsed or 0.0) * (task.total - task.completed) / done
        return Text(f"ETA {duration(left)}")


def _bar(*, hidden: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        _Eta(),
        console=console,
        disable=hidden,
    )


class TerminalDisplay:
    """Progress bars, one a stage."""

    def __init__(self, *, hidden: bool = False) -> None:
        """Nothing is drawn yet.

        Args:
            hidden: draw none, as JSON is printed.
        """
        self._hidden = hidden

    @contextmanager
    def stage(self, title: str, *, counted: bool = True) -> Iterator[Callable[[int, int], None]]:
        """A bar over work; yields ``progress(done, total)``.

        Args:
            counted: it is in units that mean something to people; a percentage is shown otherwise.
        """
        with _bar(hidden=self._hidden) as bar:
            task = bar.add_task(title, total=None, note="")

            def progress(done: int, total: int) -> None:
                note = f"{done}/{total}" if counted else f"{done / total:.0%}"
                bar.update(task, completed=done, total=total, note=note)

            yield progress
            if (total := bar.tasks[0].total) is None:
                bar.update(task, completed=1, total=1)
            else:
                progress(round(total), round(total))

    @contextmanager
    def training(
        self, study: Study, run_ids: Sequence[str], title: str
    ) -> Iterator[Callable[[], None]]:
        """A bar over the tokens of some runs; yields what to call while they train."""
        records = {r.spec.run_id: r for r in study.runs() if r.spec.run_id in set(run_ids)}
        with _bar(hidden=self._hidden) as bar:
            watch = _Watch(records)
            total = sum(r.spec.flops for r in records.values())
            task = bar.add_task(escape(title), total=total, note="", begun=watch.look()[0])

            def poll(*, now: bool = False) -> None:
                if watch.due() or now:
                    work, note = watch.look()
                    bar.update(task, completed=work, note=note)

            poll(now=True)
            yield poll
            poll(now=True)

    @contextmanager
    def watching(
        self, study: Study, run_ids: Sequence[str], title: str
    ) -> Iterator[Callable[[], None]]:
        """As :meth:`training`, with lines of what each run does above the bar."""
        lines = {r.spec.run_id: RunLines(r) for r in study.runs() if r.spec.run_id in set(run_ids)}
        for own in lines.values():  # what an earlier command has shown
            for _ in own.new():
                pass
        with self.training(study, run_ids, title) as poll:

            def show() -> None:
                for run_id, own in lines.items():
                    whose = f"{run_id} · " if len(lines) > 1 else ""
                    for line in own.new():
                        say(f"{whose}{line}", markup=False)

            def both() -> None:
                show()
                poll()

            yield both
            show()


class _Watch:
    """Reads how far runs are, a few times a second; finished ones are read once."""

    def __init__(self, records: dict[str, RunRecord]) -> None:
        self._records = records
        self._logs = {
            i: RunLog(r.layout.events, r.spec.tokens_per_step) for i, r in records.items()
        }
        self._done: set[str] = set()
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() >= self._next

    def look(self) -> tuple[float, str]:
        """FLOPs so far and a note for the bar."""
        self._next = time.monotonic() + POLL_SECONDS
        work = failed = 0.0
        for run_id, record in self._records.items():
            if run_id not in self._done and record.status in ("done", "failed"):
                self._done.add(run_id)
            work += self._share(run_id) * record.spec.flops
            failed += record.status == "failed"
        note = f"{len(self._done)}/{len(self._records)} runs"
        return work, note + (f", {failed:.0f} failed" if failed else "")

    def _share(self, run_id: str) -> float:
        """Of a run, how much is trained."""
        if run_id in self._done:
            return 1.0
        log = self._logs[run_id]
        log.read()
        return log.tokens / self._records[run_id].spec.tokens
