# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Math and code against knowledge
#
# *What does a point of knowledge cost in code?*
#
# One mixture cannot be best at everything. Between mathematics and code on one side and knowledge
# on the other lies a front: mixtures of which neither side can be improved without the other
# getting worse. This page computes it and reads prices off it, each with the interval that the
# fit's own doubt gives it. A *point* is 0.01 bits per byte.

# %%
import os
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown

from regmix import Study

study = Study.open(os.environ.get("REGMIX_STUDY", "../demo"))
fit, plot = study.fit(), study.plot
POINT = 0.01  # bits per byte

# %% [markdown]
# ## The two sides
#
# Metrics are known by their names, and only those that stand above their seed noise were fitted.
# Of a benchmark such as MMLU the bits per byte of the right answers count, as a whole
# (`mmlu/bpb`) and by group of subjects.


# %%
def named(metrics, words):
    """Bits per byte among some metrics whose names have one of the words."""
    return [m for m in metrics if "bpb" in m and any(word in m for word in words.split())]


KNOWLEDGE = "knowledge facts mmlu"
knowledge = named(fit.surrogate.metric_names, KNOWLEDGE)
doing = [m for m in named(fit.surrogate.metric_names, "math code gsm") if m not in knowledge]
knowing = [m for m in knowledge if m.startswith("bpb/")]
noisy = named(fit.diagnostics["refused"], KNOWLEDGE)
named_sides = {"Math and code": doing, "Knowledge": knowledge, "Noise, and not fitted": noisy}
lines = [f"{side}: {', '.join(own) or 'nothing'}." for side, own in named_sides.items()]
if not any("mmlu" in m for m in [*knowledge, *noisy]):
    lines.append("This study does not ask MMLU (`evaluate.tasks`).")
if not (doing and knowing):
    first, *_, last = named(fit.surrogate.metric_names, "bpb/")
    doing, knowing, knowledge = [first], [last], [last]
    lines.append(f"A side is missing: what follows is `{first}` against `{last}`.")
Markdown(" ".join(lines))

# %% [markdown]
# ## The front
#
# Every numbered point is a mixture, solved for under the study's own constraints.

# %%
front = study.pareto(",".join(doing), ",".join(knowing))
plot.front()

# %% [markdown]
# In bits per byte (the mean over a side's metrics), with one standard deviation of a measurement,
# from the mixture that is best for math and code down to the one that is best for knowledge:

# %%
UNIT = "[bits per byte]"
columns = {
    "x_plain": f"{', '.join(doing)} {UNIT}",
    "x_plain_std": f"its error {UNIT}",
    "y_plain": f"{', '.join(knowing)} {UNIT}",
    "y_plain_std": f"error of that {UNIT}",
    "nearest_distance": "distance to the nearest run [total variation]",
}
front.front[list(columns)].rename(columns=columns).round(4)

# %% [markdown]
# ## The price
#
# The front is cut into pieces of equal gain in knowledge. On each piece, knowledge falls by so
# many points and code rises by so many; the quotient is the price there. Both differences are
# uncertain, and their errors go together, so the interval is that of draws from their joint
# distribution (90%). Where less than 95% of the draws say that knowledge improves at all, there
# is no price to be given.

# %%
weights = front.front[[f"weight/{domain}" for domain in study.domains]].to_numpy()
rng = np.random.default_rng(0)


def change(metric, start, end):
    """Expected change of a metric between two mixtures of the front, and its standard deviation."""
    model = fit.surrogate.metric(metric)
    before, after = model.predict(weights[[start, end]]).mean
    return after - before, model.contrast(weights[[end]], weights[start])[0]


def price(gained, paid, start, end):
    """Points gained, and what one costs in ``paid``: 5%, 50%, 95%; NaN if the gain is not sure."""
    (fall, fall_std), (rise, rise_std) = change(gained, start, end), change(paid, start, end)
    stds = np.array([fall_std, rise_std])
    covariance = fit.surrogate.correlations([gained, paid]) * np.outer(stds, stds)
    falls, rises = rng.multivariate_normal([fall, rise], covariance, size=20_000).T
    sure = np.mean(falls < 0) >= 0.95
    levels = np.quantile(-rises / falls, [0.05, 0.5, 0.95]) if sure else [np.nan] * 3
    return [-fall / POINT, *levels]


main, code = knowing[0], next((m for m in doing if "code" in m), doing[0])
level = front.front["y_plain"].to_numpy()
cuts = [int(np.abs(level - wanted).argmin()) for wanted in np.linspace(level[0], level[-1], 5)]
pieces = [(a, b) for a, b in pairwise(cuts) if a < b]
COLUMNS = ["gained [points]", *(f"{end} [points per point]" for end in ("low", "price", "high"))]
prices = pd.DataFrame.from_dict(
    {(f"{a + 1} to {b + 1}", paid): price(main, paid, a, b) for a, b in pieces for paid in doing},
    orient="index",
    columns=COLUMNS,
)
prices.index = pd.MultiIndex.from_tuples(prices.index, names=["piece of the front", "paid in"])
prices.round(2)

# %%
picture, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for offset, paid in enumerate(doing):
    low, middle, high = prices.xs(paid, level="paid in")[COLUMNS[1:]].to_numpy().T
    errors, place = [middle - low, high - middle], np.arange(len(middle)) + 0.08 * offset
    axes.errorbar(place, middle, errors, fmt="os^D"[offset % 4], capsize=3, label=paid)
axes.set_xticks(range(len(pieces)), [f"{a + 1} to {b + 1}" for a, b in pieces])
axes.axhline(0, color="0.6", linewidth=0.8)
axes.set(xlabel="piece of the front, towards knowledge", ylabel=f"points for a point of {main}")
_ = axes.legend(frameon=False)

# %%
own = prices.xs(code, level="paid in").dropna()
told = ", ".join(
    f"{middle:.2f} on the piece {piece} ({low:.2f} to {high:.2f})"
    for piece, _, low, middle, high in own.itertuples()
)
Markdown(
    f"**Answer.** A point of `{main}` costs, in points of `{code}` with 90% intervals: {told}."
    if told
    else "**Answer.** The fit is sure of a gain on no piece: this study can put no price on it."
)

# %% [markdown]
# ## By metric of the knowledge side
#
# The whole way along the front, from one end to the other.

# %%
whole = {m: price(m, code, 0, len(weights) - 1) for m in knowledge}
table = pd.DataFrame.from_dict(whole, orient="index", columns=COLUMNS)
table.rename_axis(f"metric, paid in {code}").round(2)

# %% [markdown]
# ## Where the obvious mixtures lie
#
# `behind`: what both sides would gain at once on the front.

# %%
columns["behind"] = "behind [standard deviations over the swarm]"
front.points[["x_plain", "y_plain", "behind"]].rename(columns=columns).round(4)
