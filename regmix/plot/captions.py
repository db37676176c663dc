"""What stands below a figure: how to read it, and what is not in it."""

from __future__ import annotations

import pandas as pd

from regmix import quantities
from regmix.diagnose.curve import Curve
from regmix.plot.effects import Found, Matrix

METRIC_GAINS = (
    "Each row is a metric, turned so that right of the line means that the proposal is better. "
    "Small dots are single seeds, the large dot their mean, the diamond what the fit predicted. "
    "Where the large dot is inside the grey band, chance could explain the difference; where dot "
    "and diamond are on different sides of the line, the prediction was wrong."
)
DISTANCES = (
    "One grey dot a run: how far its nearest other run is, in total variation (the share of tokens "
    "that would have to change domain). A mixture in the shaded part lies further from every run "
    "than 1.5 times what runs typically lie apart: what is predicted of it is an extrapolation."
)
TRANSFER = (
    "Whether larger models put mixtures in the same order of the objective as the proxies do, with "
    "90% intervals. The stroke is what chance would give: half of the pairs, no correlation."
)
THROUGHPUT = (
    "One dot a finished run, the stroke their median. Runs that train side by side each have their "
    "part of the process’s time."
)


def weights(frame: pd.DataFrame) -> str:
    """Of the mixtures."""
    fitted, natural = "proposal" in frame, "natural" in frame
    text = "What share of the training tokens each domain gets"
    if fitted:
        text += ", the largest of the proposal first. "
        text += (
            "A blue bar longer than the orange one: train more on this domain than occurs "
            "naturally."
            if natural
            else "A blue bar beyond the dashed line: train more on this domain than an even split "
            "would."
        )
        text += (
            " The black range on it: what the share may be in allowed mixtures that the proposal "
            "does not beat with 90% probability."
        )
    else:
        text += " naturally; there is no proposal to compare it with yet."
    return f"{text} The dashed line is the uniform share."


def gains(frame: pd.DataFrame) -> str:
    """Of the objective's gains."""
    text = (
        "Right of the line the proposal is better. Diamonds: what the fit predicts at the proxies’ "
        "size, with a 90% interval."
    )
    if not (frame["kind"] == "measured").any():
        return f"{text} Nothing was measured at the target size."
    return (
        f"{text} Dots: the mean measured at the target size, with what seed noise allows at 95%; "
        "small dots are single seeds. At another size a gain’s sign is expected to hold, its "
        "amount less so."
    )


def held_out(metric: str | None) -> str:
    """Of one metric, or of the objective."""
    return (
        f"{'The objective' if metric is None else metric}: one dot a run, its held-out prediction "
        "with a 90% interval against what was measured. On the dashed line the two agree; about "
        "nine in ten bars should touch it."
    )


def noise_floor(hidden: int, freedom: int) -> str:
    """Of spread over noise."""
    text = (
        "Spread is the standard deviation over the runs, noise that between seeds of one mixture "
        f"(known with {freedom} degrees of freedom). Below 3 a metric says little about mixtures "
        "(crosses); from 8 on an optimum of it is more than a coin toss."
    )
    return f"{text} Not drawn: {_clearer(hidden)} clearer than these." if hidden else text


def learning(curve: Curve) -> str:
    """Of the learning curve."""
    found = curve.forecast
    gain = f"{quantities.signed(found.gain, 3)}"
    interval = f"{quantities.signed(found.low, 3)} to {quantities.signed(found.high, 3)}"
    return (
        "How well runs that a regressor has not seen are put in order by the objective, against "
        f"how many it has seen (bands: 90%). By a power law through the curve {found.more} more "
        f"runs would change the rank correlation by {gain} (90% interval {interval})."
        f"{'' if found.clear else ' That is not more than chance.'}"
    )


def effects(label: str, found: Found) -> str:
    """Of the effect curves."""
    return (
        f"What is predicted of {label} as one share moves and the others keep their ratios, those "
        "of the proposal, as far as the constraints allow; from the lowest to the highest share "
        "that is allowed and that runs have tried. Above 0 is better than the proposal, whose "
        "share is the dashed line; bands are 90% of the expected difference. Orange dots: "
        f"further from every run than runs lie apart, an extrapolation."
        f"{_left_out(found.left_out, found.fixed)}"
    )


def matrix(found: Matrix) -> str:
    """Of the effects on metrics."""
    left = []
    if found.domains:
        left.append(f"{found.domains} domain{'s' if found.domains > 1 else ''}")
    if found.metrics:
        left.append(f"{found.metrics} metric{'s' if found.metrics > 1 else ''}")
    hidden = f" Not shown, with weaker effects: {' and '.join(left)}." if left else ""
    return (
        "Gain of each metric as a domain’s share goes from the lowest to the highest that is "
        "allowed and that runs have tried, the others keeping the proposal’s ratios; in standard "
        "deviations of the metric over the swarm. Blue and + is better, orange and − worse; a dot: "
        f"the fit is not 90% sure of the sign.{hidden}{_fixed(found.fixed)}"
    )


def interactions(label: str, found: Found) -> str:
    """Of pairs of domains."""
    more = (
        f" Of {found.left_out + len(found.frame)} pairs {len(found.frame)} are shown: the "
        "strongest among the domains with the widest effects."
        if found.left_out
        else ""
    )
    return (
        f"By how much the gain in {label} of raising both shares differs from the sum of raising "
        "each alone, over the middle half of what the runs tried, near the proposal; the other "
        "domains keep their ratios. Bars are 90% intervals; hollow: the sign is open. Positive: "
        f"the two go together; negative: one stands in for the other.{more}"
    )


def front(points: int) -> str:
    """Of a front with so many points."""
    what = (
        "On the line one side can only be improved at the other’s cost, as far as the fit knows; "
        "bars are one standard deviation of a measurement. Below: what each numbered mixture on "
        "the line is made of."
        if points > 1
        else "One mixture is best for both sides: there is nothing to trade."
    )
    return (
        f"Down and left is better. {what} 0 is the swarm’s mean, and one unit its standard "
        "deviation, averaged over the metrics of a side."
    )


def shares(fitted: bool) -> str:
    """Of what was sampled."""
    text = (
        "One dot a run: which shares of each domain were tried. The box spans the middle half of "
        "the runs, the stroke in it is their median."
    )
    end = (
        " A proposal at the far end of the dots, or beyond them, is where the fit knows least."
        if fitted
        else ""
    )
    return text + end


def objectives(noise: bool, fitted: bool) -> str:
    """Of the runs' objectives."""
    text = "Every run’s objective, the best on the left."
    if noise:
        text += (
            " Bars are one standard deviation of seed noise: runs whose bars overlap much cannot "
            "be told apart."
        )
    if fitted:
        text += (
            " The blue line is what the fit predicts for the proposal, the band its 90% interval."
        )
    return text


def _left_out(weaker: int, fixed: int) -> str:
    hidden = ""
    if weaker:
        hidden = f" Not shown, with weaker effects: {weaker} domain{'s' if weaker > 1 else ''}."
    return hidden + _fixed(fixed)


def _fixed(count: int) -> str:
    if not count:
        return ""
    who = "One domain" if count == 1 else f"{count} domains"
    return f" {who} cannot move: the constraints or the runs hold {'it' if count == 1 else 'them'}."


def _clearer(count: int) -> str:
    return "one metric that is" if count == 1 else f"{count} metrics that are"
