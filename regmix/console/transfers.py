"""What larger sizes say of the order that the proxies found."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from regmix.console.terminal import say, show, show_notes, table
from regmix.errors import UserError
from regmix.study import Study
from regmix.transfer import Reversal, Transfer

_ROWS, _TOLD = 40, 8


def show_transfer(found: Transfer) -> None:
    """Rank correlation and decided pairs of every metric, and the pairs that turn round."""
    say(f"[bold]{escape(found.verdict())}[/bold]")
    shown = table(None, "metric", "Spearman", "90 %", "pairs decided alike", "90 %", "slope", "")
    for row in found.table.head(_ROWS).itertuples():
        shown.add_row(
            escape(str(row.metric)), f"{row.spearman:.3f}",
            f"{row.spearman_low:.2f} to {row.spearman_high:.2f}", f"{row.accuracy:.0%}",
            f"{row.accuracy_low:.0%} to {row.accuracy_high:.0%}", f"{row.slope:.2f}",
            "rescaling helps" if row.helps else "",
        )  # fmt: skip
    show(shown)
    if len(found.table) > _ROWS:
        say(f"[dim]and {len(found.table) - _ROWS} more; --csv prints all[/dim]")
    for reversal in _worst(found.reversals):
        say(_sentence(reversal))
    show_notes([f"left out: {run}" for run in found.left_out])


def show_verdicts(study: Study) -> None:
    """A line a size of the study's ladder, or what is missing."""
    try:
        found = study.transfer()
    except UserError as exc:  # a ladder that is not trained yet takes nothing from a fit
        say(f"[yellow]note:[/yellow] {escape(str(exc))}")
        return
    for transfer in found:
        say(f"transfer {escape(transfer.verdict())}")


def _worst(reversals: Sequence[Reversal]) -> list[Reversal]:
    """Those that seed noise does not explain first, then by how far they turn round."""
    return sorted(reversals, key=lambda r: (not r.beyond_noise, -min(r.small, r.large)))[:_TOLD]


def _sentence(r: Reversal) -> str:
    doubt = {True: "beyond seed noise", False: "within seed noise", None: "noise not known"}
    return (
        f"{escape(r.metric)}: {escape(r.first)} is {r.small:.4f} better than {escape(r.second)}, "
        f"and {r.large:.4f} worse at the larger size ({doubt[r.beyond_noise]})"
    )
