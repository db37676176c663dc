"""Words and numbers of the report: figures as people write them, and what they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd

from regmix.comparison import Comparison, Gain
from regmix.noise import SeedNoise
from regmix.objective import Objective
from regmix.plot.frames import REFERENCES
from regmix.quantities import amount, decimals_for, fixed, signed, with_error

Tone = Literal["good", "warn", "bad", "plain"]


def goal(objective: Objective) -> tuple[str, str]:
    """What a better mixture does (``lower`` or ``raise``), and to what."""
    verb = "raise" if set(objective.signs) == {-1} else "lower"
    if len(objective.metrics) == 1:
        return verb, objective.metrics[0]
    if len(set(objective.weights)) == 1 and len(set(objective.signs)) == 1:
        return verb, f"the mean of {len(objective.metrics)} metrics"
    return verb, "the weighted objective"


def unit(objective: Objective) -> str:
    """Unit of the objective's differences, with a space before it; empty if it has none."""
    in_bits = all(m.startswith("bpb/") or m.endswith("/bpb") for m in objective.metrics)
    return " bits per byte" if in_bits else ""


def predicted(objective: Objective, gains: pd.DataFrame) -> str:
    """What the fit expects of the proposal, in one sentence.

    Args:
        objective: what was optimised.
        gains: as :func:`regmix.plot.frames.predicted_gains`.
    """
    verb, noun = goal(objective)
    opposite = {"lower": "raise", "raise": "lower"}[verb]
    text = ""
    last = None
    for name in [r for r in REFERENCES if r in gains.index]:
        gain, std = gains["gain"][name], gains["std"][name]
        does = verb if gain >= 0 else opposite
        if last is None:
            text = f"to {does} {noun} "
        else:
            text += " and " if does == last else f", but to {does} it "
        text += f"by {with_error(abs(gain), std)}{unit(objective)} against {name}"
        text += " (less than its own error)" if abs(gain) < std else ""
        last = does
    if last is None:
        return "The proposed mixture has no reference to be compared with."
    return f"The proposed mixture is predicted {text}."


def judgement(gain: Gain, noise: SeedNoise) -> tuple[str, Tone]:
    """What the measurement says about the prediction, in a word or two, and how it is meant."""
    verdict = gain.verdict(noise)
    if verdict == "not known":
        return "noise not known: nothing is confirmed", "warn"
    if verdict == "tied":
        return "tied: not confirmed", "warn"
    if verdict == "better":
        return ("better, as predicted", "good") if gain.predicted > 0 else (
            "better, against the prediction", "warn")  # fmt: skip
    if gain.predicted > 0:
        return "worse: prediction contradicted", "bad"
    return "worse, as predicted", "bad"


def measured(
    comparison: Comparison | None, gains: Mapping[str, Gain], noise: SeedNoise, units: str
) -> str:
    """What the models at the target size say about the prediction, plainly.

    Args:
        comparison: None if nothing was trained at the target size.
        gains: as :func:`regmix.comparison.gains`.
        noise: of the objective, between seeds.
        units: as :func:`unit`.
    """
    if comparison is None:
        return (
            "Nothing has been measured at the target size: this rests on the small proxies alone."
        )
    if not gains and (comparison.unmeasured or comparison.unknown):
        return f"{unmeasured(comparison)}, so the prediction is not yet checked."
    if not gains:
        return (
            "At the target size the proposal and a reference have not both been measured with the "
            "same seed, so the prediction is not yet checked."
        )
    size = f"{amount(comparison.parameters)} parameters, {amount(comparison.tokens)} tokens"
    parts = [_measured(name, gain, noise, units) for name, gain in gains.items()]
    missing = [name for name in REFERENCES if name not in gains]
    missing = [name for name in missing if name in set(comparison.values["mixture"])]
    parts += [f"not measured against {name} with the same seed" for name in missing]
    chance = "" if noise.known else (
        " No mixture was repeated with another seed, so the noise is not known and the differences "
        "may be chance."
    )  # fmt: skip
    return f"Measured at the larger size ({size}): {'; '.join(parts)}.{chance}"


def unmeasured(comparison: Comparison) -> str:
    """Which metrics of the objective the larger models lack, or that they lack its reference."""
    if comparison.unknown and not comparison.unmeasured:
        return f"The objective of the models at the target size is not known: {comparison.unknown}"
    names = ", ".join(comparison.unmeasured)
    return (
        f"The models at the target size were not all measured on {names}, which the objective needs"
    )


def _measured(name: str, gain: Gain, noise: SeedNoise, units: str) -> str:
    verdict = gain.verdict(noise)
    decimals = decimals_for(noise.std if noise.std > 0 else gain.predicted_std)
    seeds = len(gain.by_seed)
    over = f"over {seeds} seed{'s' if seeds > 1 else ''}"
    if verdict == "tied":
        return (
            f"tied with {name} {over} (mean gain {signed(gain.mean, decimals)}{units}, within "
            "seed noise), so the predicted difference is not confirmed"
        )
    if verdict == "not known":
        return f"mean gain against {name} {signed(gain.mean, decimals)}{units} {over}"
    size = f"by {fixed(abs(gain.mean), decimals)}{units} {over}"
    agrees = (gain.mean > 0) == (gain.predicted > 0)
    ending = "as predicted" if agrees else "which contradicts the prediction"
    return f"{verdict} than {name} {size}, {ending}"


def tone(gains: Mapping[str, Gain], noise: SeedNoise) -> Tone:
    """The worst of what was measured: how the answer as a whole is to be taken."""
    found = [judgement(g, noise)[1] for g in gains.values()]
    order: tuple[Tone, ...] = ("bad", "warn", "good")
    return next((tone for tone in order if tone in found), "plain")
