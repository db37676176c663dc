"""Noise, differences, flagged runs and what a study cost, in the terminal."""

from __future__ import annotations

import math

from rich.markup import escape

from regmix.console.terminal import say, show, show_notes, table
from regmix.cost import Account
from regmix.differences import MODELS, NOTHING, UNKNOWN, Differences
from regmix.flags import Flags
from regmix.noise import ADVISED_SNR, LEAST_SNR, LEVEL, NoiseFloor
from regmix.quantities import amount, flops


def show_noise(floor: NoiseFloor) -> None:
    """Every metric's class, and from what difference on two runs differ by more than seeds."""
    degrees = int(floor.metrics["freedom"].iloc[0])
    seeds = ", ".join(str(int(s)) for s in floor.mixtures["seeds"])
    if degrees:
        say(f"seed noise from {seeds} seeds of {len(floor.mixtures)} mixtures: "
            f"{degrees} degrees of freedom")  # fmt: skip
    else:
        say("no mixture was repeated: seed noise is not known (swarm.replicates, swarm.repeat)")
    shown = table(
        "Noise", "metric", "class", "spread/noise", "p", "with sampling", "spread", "seed noise",
        "90 %", "sampling", "seeds to be stable", "counts from", "uneven", "p even",
    )  # fmt: skip
    for name, m in floor.metrics.iterrows():
        interval = f"{_figure(m['seed_low'])}–{_figure(m['seed_high'])}" if degrees else "–"
        shown.add_row(
            escape(str(name)), m["kind"], _ratio(m["snr"]), _chance(m["p_signal"]),
            _ratio(m["snr_least"]),
            _figure(m["spread"]), _figure(m["seed"]), interval, _figure(m["eval"]),
            _seeds(m["seeds"], m["snr"]), _figure(m["counts"]), _ratio(m["uneven"]),
            _chance(m["p_uneven"]),
        )  # fmt: skip
    show(shown)
    say(
        f"[dim]very stable: spread {ADVISED_SNR:g}x the seed noise or more; stable: "
        f"{LEAST_SNR:g}x; noisy, too, where p, that mixtures make no difference, is "
        f"{1 - LEVEL:.2g} or more; noisy ones are kept out of fits unless named[/dim]"
    )
    say(
        f"[dim]counts from: two runs that differ by less do not differ by more than seeds do "
        f"({LEVEL:.0%}, t with {degrees} degrees of freedom); uneven: largest over smallest noise "
        "of the repeated mixtures, p even: that it is the same; both p corrected for the metrics "
        "(Holm)[/dim]"
    )
    for name in floor.copies:
        say(
            f"[yellow]note:[/yellow] {escape(name)} has another repeat's figures to the last "
            "digit: not counted as a repeat"
        )
    show_notes(floor.notes)


def show_differences(found: Differences) -> None:
    """Metric by metric against the first, and in a line whether there is anything at all."""
    first, *others = found.subjects
    for name in others:
        rows = found.frame[found.frame["name"] == name]
        seeds = int(rows["seeds"].iloc[0])
        paired = f"paired by {seeds} seeds" if seeds else "not paired: no seed in common"
        shown = table(
            f"{name} against {first} ({paired})",
            "metric", first, name, "difference", "± seeds", "± texts", "pairs", "df", "p",
            "p any", "",
        )  # fmt: skip
        for r in rows.to_dict("records"):
            shown.add_row(
                escape(r["metric"]), f"{r['first']:.4f}", f"{r['value']:.4f}",
                f"{r['difference']:+.4f}", _figure(r["std_error"]), _figure(r["std_error_texts"]),
                f"{r['items']:,}" if r["items"] else "–", str(r["freedom"]),
                _chance(r["p"]), _chance(r["p_any"]), r["verdict"],
            )  # fmt: skip
        show(shown)
        say(f"[bold]{escape(_outcome(found, name))}[/bold]")
    say(
        "[dim]p: two-sided, Student's t, corrected for all metrics and pairs of the table (Holm); "
        "p any: with what other texts of the same kind could change, over pairs of documents or "
        "questions where they are kept, else as if each had been measured on texts of its own[/dim]"
    )
    show_notes(found.notes)


def _outcome(found: Differences, name: str) -> str:
    first, count = found.subjects[0], len(found.detected(name))
    total = int((found.frame["name"] == name).sum())
    own = found.frame[found.frame["name"] == name]
    if own["p"].fillna(own["p_any"]).isna().all():
        return f"{name} against {first}: {UNKNOWN}"
    if not count:
        return f"{name} against {first}: {NOTHING}"
    known = "" if own["p"].notna().any() else MODELS
    return f"{name} differs from {first} on {count} of {total} metrics{known}"


def show_flags(found: Flags) -> None:
    """Every rule that a run breaks."""
    if found.frame.empty:
        say(f"nothing is wrong with any of {found.judged} runs")
        return
    shown = table(None, "run", "name", "rule", "what")
    for r in found.frame.to_dict("records"):
        shown.add_row(r["run_id"], *(escape(str(r[c])) for c in ("name", "rule", "text")))
    for column in shown.columns[1:]:
        column.justify = "left"
    show(shown)
    count = found.frame["run_id"].nunique()
    say(
        f"{count} of {found.judged} runs; they are fitted all the same unless study.yaml has "
        "fit: {flagged: exclude}, or names them in fit.exclude"
    )


def show_account(found: Account) -> None:
    """What was spent by role, the share of evaluation, and RegMix's recipe beside it."""
    shown = table("Cost", "role", "runs", "tokens", "FLOPs", "evaluation", "device-hours")
    for role, r in found.roles.iterrows():
        spent = r["evaluation"]
        shown.add_row(
            escape(str(role)), f"{r['runs']:.0f}", amount(r["tokens"]), flops(r["flops"]),
            "–" if math.isnan(spent) else flops(spent), f"{r['device_hours']:.3g}",
        )  # fmt: skip
    other = found.regmix
    hours = other["device_hours"]
    shown.add_row(
        "RegMix's recipe", f"{other['runs']:.0f}", amount(other["tokens"]), flops(other["flops"]),
        "–", "–" if math.isnan(hours) else f"{hours:.3g}", style="dim",
    )  # fmt: skip
    show(shown)
    share = found.evaluation_share
    if not math.isnan(share):
        say(f"evaluation is {share:.1%} of all FLOPs")
    if not math.isnan(found.ratio):
        say(f"RegMix's published recipe takes {found.ratio:.3g} times the FLOPs of these proxies")
    for assumption in found.assumptions:
        say(f"[dim]{escape(assumption)}[/dim]")


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _ratio(value: float) -> str:
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.1f}"


def _seeds(value: float, snr: float) -> str:
    if math.isnan(value):
        return "–" if math.isnan(snr) else "no number"
    return f"{value:.0f}"


def _chance(p: float) -> str:
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
