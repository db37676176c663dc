"""What a person sees in the terminal of a front and of a diagnosis."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.markup import escape

from regmix.console.terminal import console, say, show, table
from regmix.diagnose import Curve, Diagnosis, Kind
from regmix.pareto import WEIGHT, Pareto, Side

_DOMAINS, _ROWS, _WIDE = 5, 15, 12


def show_pareto(found: Pareto, png: Path) -> None:
    """The front, the domains that change most along it, and the other mixtures beside it."""
    say(
        f"[bold]{escape(_side(found.x))} against {escape(_side(found.y))}[/bold]: standard "
        "deviations over the swarm, 0 its mean, lower is better"
    )
    x, y = (_narrow(s.name) for s in (found.x, found.y))
    domains = _most_changed(found.front)
    heads = narrowed(domains)
    shown = table(None, "front", x, y, "nearest run", *heads)
    for number, row in _thinned(found.front).iterrows():
        weights = (f"{row[f'{WEIGHT}{d}']:.3f}" for d in domains)
        shown.add_row(f"{number}", *_cells(row), f"{row['nearest_distance']:.3f}", *weights)
    show(shown)
    shown = table(None, "beside it", x, y, "nearest run", "behind by", "gain left", "gain down")
    for name, row in found.points.iterrows():
        gains = (_gain(row[g]) for g in ("behind", "gain_x", "gain_y"))
        label = f"{name}" if row["allowed"] else f"{name} (not allowed)"
        shown.add_row(escape(label), *_cells(row), f"{row['nearest_distance']:.3f}", *gains)
    show(shown)
    say(
        f"[dim]behind by: what both sides would gain at once on the front; gain left, down: what "
        f"{escape(x)}, {escape(y)} alone would[/dim]"
    )
    for side, letter in ((found.x, "x"), (found.y, "y")):
        if side.unit:
            ends = (found.front[f"{letter}_plain"].iloc[i] for i in (0, -1))
            first, last = (f"{v:.4f}" for v in ends)
            say(f"{escape(side.name)}: {first} at 1, {last} at {len(found.front)}, {side.unit}")
    if len(found.front) == 1:
        say("one mixture is best for both sides: there is nothing to trade")
    for note in found.notes:
        say(f"[yellow]note:[/yellow] {escape(note)}")
    say(f"table    {escape(str(found.csv))}\nfigure   {escape(str(png))}")


def _side(side: Side) -> str:
    n = len(side.metrics)
    return side.name if n == 1 else f"{side.name} ({n} metrics)"


def _thinned(front: pd.DataFrame) -> pd.DataFrame:
    """So few rows that a screen holds them, the ends among them."""
    if len(front) <= _ROWS:
        return front
    step = (len(front) - 1) / (_ROWS - 1)
    return front.iloc[[round(i * step) for i in range(_ROWS)]]


def _most_changed(front: pd.DataFrame) -> list[str]:
    weights = front[[c for c in front if str(c).startswith(WEIGHT)]]
    change = (weights.max() - weights.min()).sort_values(ascending=False, kind="stable")
    return [str(c).removeprefix(WEIGHT) for c in change.index[:_DOMAINS]]


def narrowed(names: Sequence[str]) -> list[str]:
    """Names that fit above a column: long ones without what they share with others, or cut."""
    plain = without_prefix(names)
    tails = [re.split(r"[/:]", n)[-1] for n in plain]
    return [
        _narrow(tail if len(name) > _WIDE and tails.count(tail) == 1 else name)
        for name, tail in zip(plain, tails, strict=True)
    ]


def without_prefix(names: Sequence[str]) -> list[str]:
    """Names without the part up to a separator that all of them begin with."""
    if len(names) < 2:
        return list(names)
    alike = 0  # the first and the last in order differ where any two do
    for a, b in zip(min(names), max(names), strict=False):
        if a != b:
            break
        alike += 1
    cut = max(min(names)[:alike].rfind(s) for s in "_/:.-") + 1
    return [n[cut:] for n in names]


def _narrow(name: str) -> str:
    return name if len(name) <= _WIDE else f"{name[: _WIDE - 1]}…"


def _cells(row: pd.Series) -> tuple[str, str]:
    x, y = (f"{row[side]:+.2f} ± {row[f'{side}_std']:.2f}" for side in ("x", "y"))
    return x, y


def _gain(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def show_diagnosis(found: Diagnosis) -> None:
    """What the swarm can say, what it cannot, the learning curve, and what to do next."""
    titles: dict[Kind, str] = {"can": "can say", "cannot": "cannot say", "do": "do next"}
    for kind, title in titles.items():
        texts = found.say(kind)
        if kind == "do" and found.curve is not None:
            _show_curve(found.curve)
        if texts:
            say(f"[bold]{title}[/bold]")
        for text in texts:
            _bullet(text)


def _bullet(text: str) -> None:
    lines = textwrap.wrap(
        text, max(60, min(console.width, 120)), initial_indent="  - ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for line in lines:
        say(line, markup=False)


def _show_curve(curve: Curve) -> None:
    how = "the objective itself" if curve.directly else "its metrics"
    shown = table(f"learning curve ({curve.regressor} on {how})", "runs seen",
                  *map(str, curve.points.index))  # fmt: skip
    for name, column in (("Spearman", "spearman"), ("± std", "std")):
        shown.add_row(name, *(f"{v:.3f}" for v in curve.points[column]))
    show(shown)
