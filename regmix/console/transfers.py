"""What larger sizes say of the order that the proxies found."""

from __future__ import annotations

from collections.abc import Sequence

import scipy
from rich.markup import escape

from regmix.console.terminal import say, show, show_notes, table
from regmix.rescaling import Rescaling
from regmix.study import Study
from regmix.transfer import OBJECTIVE, Reversal, Transfer

_ROWS, _TOLD = 40, 8


def show_transfer(found: Transfer) -> None:
    """Rank correlation and decided pairs of every metric, and the pairs that turn round."""
    say(f"[bold]{escape(found.verdict())}[/bold]")
    shown = table(
        None,
        "metric",
        "mixtures",
        "Spearman",
        "90 %",
        "pairs decided alike",
        "90 %",
        "slope",
        "line",
        "shift",
        "",
    )
    for row in found.table.head(_ROWS).itertuples():
        shown.add_row(
            escape(str(row.metric)), f"{row.mixtures}", f"{row.spearman:.3f}",
            f"{row.spearman_low:.2f} to {row.spearman_high:.2f}", f"{row.accuracy:.0%}",
            f"{row.accuracy_low:.0%} to {row.accuracy_high:.0%}", f"{row.slope:.2f}",
            *_errors(found.rescalings.get(str(row.metric))), "rescaling helps" if row.helps else "",
        )  # fmt: skip
    show(shown)
    if len(found.table) > _ROWS:
        say(f"[dim]and {len(found.table) - _ROWS} more; --csv prints all[/dim]")
    if found.rescalings:
        say("[dim]line, shift: error of mixtures left out, predicted by a line through the others, "
            "or by their mean difference[/dim]")  # fmt: skip
    show_notes(found.notes)
    for reversal in _worst(found.reversals):
        say(_sentence(reversal))
    show_notes([f"left out: {run}" for run in found.left_out])


def show_verdicts(study: Study) -> None:
    """What the latest fit's proposal carries of larger sizes, and its figures there."""
    for verdict in study.latest_fit().proposal.transfer:
        say(f"transfer {escape(verdict.text)}")
        own = verdict.predicted.get(OBJECTIVE)
        if own is not None:
            half = float(scipy.stats.t.ppf(0.95, own.freedom)) * own.std
            say(
                f"objective at {escape(verdict.large)}: {own.mean:.4f}, 90 % of runs within "
                f"± {half:.4f} (by a {own.how} through {verdict.mixtures} mixtures)"
            )
        for metric, found in verdict.linked.items():
            say(
                f"{escape(metric)} at {escape(verdict.large)}: {found.value:.4f} (90 % of models "
                f"of its loss within {found.low:.4f} to {found.high:.4f})"
            )
        show_notes(verdict.notes)


def _errors(line: Rescaling | None) -> tuple[str, str]:
    """Of mixtures predicted from the others: by a line, and by a shift."""
    return ("–", "–") if line is None else (f"{line.error:.3g}", f"{line.error_shift:.3g}")


def _worst(reversals: Sequence[Reversal]) -> list[Reversal]:
    """Those that seed noise does not explain first, then by how far they turn round."""
    return sorted(
        reversals,
        key=lambda r: (
            not (r.beyond_small and r.beyond_large is not False),
            -min(r.small, r.large),
        ),
    )[:_TOLD]


def _sentence(r: Reversal) -> str:
    doubt = {True: "beyond seed noise", False: "within seed noise", None: "seed noise not known"}
    return (
        f"{escape(r.metric)}: {escape(r.first)} is {r.small:.4f} better than {escape(r.second)} "
        f"({doubt[r.beyond_small]}), and {r.large:.4f} worse at the larger size "
        f"({doubt[r.beyond_large]})"
    )
