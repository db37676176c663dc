"""A snapshot of a study as lines, for a terminal of any size."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from regmix.console.spark import spark
from regmix.quantities import amount, duration, flops
from regmix.status import STATES
from regmix.watch import InTraining, Problem, Snapshot

SILENT_SECONDS = 120.0
"""After which a worker's silence is told."""
_PLAIN = str.maketrans({"·": "-", "–": "-", "…": ">", "━": "#", "─": "-"})
_STYLES = {"failed": "red", "attempt": "yellow", "warning": "yellow"}
_LOW = 18
"""Lines below which roles are not told apart."""


@dataclass(frozen=True)
class Screen:
    """How much there is room for."""

    width: int | None
    """Columns; None: lines are as long as they are, and curves of a fixed width."""
    height: int | None = None
    """Lines; None: as many as there are."""
    ascii_only: bool = False

    @property
    def curve(self) -> int:
        """Columns of a learning curve."""
        return 24 if self.width is None else max(8, min(40, self.width - 50))

    def fits(self, columns: int) -> bool:
        """Whether a line of so many columns has room."""
        return self.width is None or self.width >= columns


@dataclass
class _Section:
    """Lines that belong together; the last ones are left out where room is short."""

    head: list[Text]
    rows: list[Text] = field(default_factory=list)
    what: str = ""
    """The rows are called so where some are left out."""

    def lines(self, room: int | None) -> list[Text]:
        """At most so many lines."""
        total = len(self.head) + len(self.rows)
        if room is None or total <= room:
            return [*self.head, *self.rows]
        kept = max(0, room - len(self.head) - 1)
        more = Text(f"… {len(self.rows) - kept} more {self.what}", style="dim")
        return [*self.head, *self.rows[:kept], more][: max(0, room)]


def draw(found: Snapshot, name: str, screen: Screen, foot: str = "") -> list[Text]:
    """Lines of a snapshot, none longer and no more of them than the screen allows.

    Args:
        found: the snapshot.
        name: of the study.
        screen: its size.
        foot: a last line.
    """
    fixed = [*_summary(found, name, screen), Text(), *_roles(found, screen)]
    last = [Text(), Text(foot, style="dim")] if foot else []
    sections = [s for s in (_workers(found, screen), _training(found, screen), _problems(found))
                if s.rows]  # fmt: skip
    lines = list(fixed)
    for section, room in zip(sections, _rooms(sections, screen, len(fixed + last)), strict=True):
        lines += [Text(), *section.lines(room)] if room != 0 else []
    lines += last
    if screen.height is not None:
        lines = lines[: screen.height]
    return [_fitted(line, screen) for line in lines]


def _rooms(sections: Sequence[_Section], screen: Screen, used: int) -> list[int | None]:
    """Lines for every section: what few need is theirs, the others share the rest."""
    if screen.height is None:
        return [None] * len(sections)
    left = max(0, screen.height - used - len(sections))
    rooms: list[int | None] = [None] * len(sections)
    order = sorted(range(len(sections)), key=lambda i: len(sections[i].rows))
    for place, index in enumerate(order):
        wanted = len(sections[index].head) + len(sections[index].rows)
        given = min(wanted, left // (len(order) - place))
        if given < min(wanted, len(sections[index].head) + 2):
            given = 0  # a heading and how many there are: others have more use for the lines
        rooms[index] = given
        left -= given
    return rooms


def _fitted(line: Text, screen: Screen) -> Text:
    if screen.ascii_only:
        line = Text(line.plain.translate(_PLAIN), style=line.style)
    if screen.width is not None and line.cell_len > screen.width:
        line = line.copy()
        line.truncate(screen.width, overflow="crop" if screen.ascii_only else "ellipsis")
    return line


def _summary(found: Snapshot, name: str, screen: Screen) -> list[Text]:
    status = found.status
    clock = time.strftime("%H:%M:%S", time.localtime(found.time))
    closed = status.count("done") + status.count("failed")
    eta = status.eta_seconds
    if status.closed:
        when = "all runs are done" if not status.count("failed") else "no run is left"
    else:
        when = "nobody trains" if eta is None else f"ETA {duration(eta)}"
    width = 30 if screen.width is None else max(5, min(40, screen.width - 45))
    filled = min(width, int(status.share * width))
    spent = found.spent
    parts = [
        f"{amount(status.done_tokens)} of {amount(status.planned_tokens)} tokens",
        f"{amount(status.tokens_per_second)} tok/s" if status.tokens_per_second else "",
        flops(spent.flops),
        f"{_hours(spent.device_hours)} device-hours",
        "" if spent.cost is None else f"cost {spent.cost:,.2f}",
    ]
    return [
        Text.assemble((name, "bold"), (f"  {clock}", "dim")),
        Text.assemble(
            ("━" * filled, "green"), ("─" * (width - filled), "dim"),
            f"  {status.share:.0%}  {closed}/{len(status.runs)} runs  {when}",
        ),
        *_packed([part for part in parts if part], screen),
    ]  # fmt: skip


def _packed(parts: Sequence[str], screen: Screen) -> list[Text]:
    """Parts in as few lines as have room for them."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]} · {part}"
        lines = [*lines[:-1], longer] if screen.fits(cell_len(longer)) else [*lines, part]
    return [Text(line) for line in lines]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _roles(found: Snapshot, screen: Screen) -> list[Text]:
    states = [s for s in STATES if screen.fits(60) or found.status.count(s)]
    if screen.height is not None and screen.height < _LOW:
        return _packed([f"{found.status.count(s)} {s}" for s in states], screen)
    rows = [["role", "runs", *states]]
    for role in found.roles:
        counts = [str(role.counts[s]) if role.counts[s] else "–" for s in states]
        rows.append([role.role, str(sum(role.counts.values())), *counts])
    return _aligned(rows, left=1)


def _workers(found: Snapshot, screen: Screen) -> _Section:
    rows = [["worker", "runs", "tok/s", "finished", *(["on"] if screen.fits(80) else [])]]
    for w in found.workers:
        silent = w.silent_seconds is not None and w.silent_seconds > SILENT_SECONDS
        note = f" · silent for {duration(w.silent_seconds or 0)}" if silent else ""
        where = [" · ".join(part for part in (w.host, w.device) if part) + note]
        name = w.worker if screen.fits(80) else w.worker[-16:]
        rows.append(
            [name, str(len(w.runs)), amount(w.tokens_per_second), str(w.finished),
             *(where if screen.fits(80) else [])]
        )  # fmt: skip
    head, *body = _aligned(rows, left=1, texts=(4,))
    return _Section([head], body, "workers")


def _training(found: Snapshot, screen: Screen) -> _Section:
    """Runs in training, each with its curve; curves of one role have one scale."""
    bounds = _bounds(found.training)
    rows = [["run", "done", "loss", "curve", "tok/s", *(["bits/byte"] if screen.fits(80) else [])]]
    for run in found.training:
        state = run.state
        curve = spark(
            [(float(at), loss) for at, loss in run.curve], state.planned_tokens, screen.curve,
            bounds[state.role], ascii_only=screen.ascii_only,
        )  # fmt: skip
        rows.append(
            [state.name, f"{state.tokens / state.planned_tokens:.0%}",
             f"{run.curve[-1][1]:.3f}" if run.curve else "–",
             curve + "·" * (screen.curve - len(curve)),
             amount(state.tokens_per_second), *([_bits(run)] if screen.fits(80) else [])]
        )  # fmt: skip
    head, *body = _aligned(rows, left=1, texts=(3,))
    return _Section([head], body, "in training")


def _bits(run: InTraining) -> str:
    """The mean over domains as they were measured last."""
    values = [v for name, v in run.metrics.items() if name.startswith("bpb/")]
    return f"{sum(values) / len(values):.4f}" if values else "–"


def _bounds(runs: Sequence[InTraining]) -> dict[str, tuple[float, float]]:
    by_role: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        by_role[run.state.role] += [loss for _, loss in run.curve]
    return {role: (min(v, default=0.0), max(v, default=0.0)) for role, v in by_role.items()}


def _problems(found: Snapshot) -> _Section:
    """What went wrong; runs with the same trouble share a line."""
    alike: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in found.problems:
        alike[problem.kind, problem.text].append(problem)
    rows = []
    for (kind, text), own in alike.items():
        whose = own[0].name if len(own) == 1 else f"{len(own)} runs ({own[0].name}, …)"
        rows.append(Text.assemble((f"{kind:<8}", _STYLES[kind]), f"{whose}: {text}"))
    return _Section([], rows, "failures and warnings")


def _aligned(rows: Sequence[Sequence[str]], left: int, texts: Sequence[int] = ()) -> list[Text]:
    """Rows in columns, the first row dim: text to the left, numbers to the right.

    Args:
        rows: cells.
        left: so many first columns are text.
        texts: further columns that are.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    found = []
    for number, row in enumerate(rows):
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            pad = " " * (width - cell_len(cell))
            cells.append(cell + pad if i < left or i in texts else pad + cell)
        found.append(Text("  ".join(cells).rstrip(), style="" if number else "dim"))
    return found
