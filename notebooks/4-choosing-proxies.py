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
# # 4. Choosing proxies
#
# *Larger, longer, or more of them?*
#
# A swarm's budget can go into the size of its models, into their tokens, into their number, or
# into repeats that measure the noise. This page asks a finished swarm what each has bought, in
# the order in which they limit: nothing helps a metric that is noise, and no number of runs helps
# models that put mixtures in the wrong order.

# %%
import os

from IPython.display import Markdown, display

from regmix import Study

study = Study.open(os.environ.get("REGMIX_STUDY", "../demo"))
fit, plot, runs = study.fit(), study.plot, study.fitted()
findings = study.diagnose()

# %% [markdown]
# ## What it cost
#
# By role: the swarm, its baselines and repeats, and larger models where there are any.

# %%
cost = study.cost().roles[["runs", "tokens", "flops", "device_hours"]] / [1, 1e6, 1e12, 1 / 60]
cost.columns = ["runs", "tokens [millions]", "training [TFLOP]", "devices [minutes]"]
cost.astype({"runs": int}).round(2)

# %% [markdown]
# ## Noise: what could any proxy of this kind see?
#
# Spread is what mixtures do to a metric, noise what seeds do. Averaging more seeds a mixture
# lowers the second by the square root of their number; longer or larger proxies raise the first.

# %%
repeated = not runs.repeats().empty
unknown = Markdown("No mixture was repeated with another seed (`swarm.replicates`): not known.")
plot.noise_floor(limit=12) if repeated else unknown

# %%
noise = study.noise()
table = noise.metrics.loc[list(fit.objective.metrics), ["spread", "seed"]]
for number, mixture in enumerate(noise.mixtures.index, start=1):
    table[f"seed, mixture {number}"] = noise.mixtures.loc[mixture, table.index].astype(float)
table.add_suffix(" [unit of the metric]").round(4)

# %%
own = findings.objective
told = "That is enough." if own.snr >= 8 else "Below 8, an optimum can be a coin toss: "
if own.snr < 8:
    told += f"{own.seeds or 'no number of'} seeds a mixture would lift it to that."
answer = f"**Answer.** The objective's spread is {own.snr:.1f} times its seed noise. {told}"
Markdown(answer) if repeated else unknown

# %% [markdown]
# ## Number: would more runs help?
#
# The same fit with fewer runs, judged on runs that it has not seen; what more would give is read
# off a power law.

# %%
enough = findings.curve is not None
few = Markdown(f"{len(runs.weights)} runs are too few for a learning curve.")
plot.learning() if enough else few

# %%
if enough:
    more = findings.curve.forecast
    few = Markdown(
        f"**Answer.** {more.more} more runs would change the held-out rank correlation of "
        f"{own.spearman:.3f} by {more.gain:+.3f} (90% interval {more.low:+.3f} to "
        f"{more.high:+.3f}), which is {'more' if more.clear else 'no more'} than chance."
    )
few

# %% [markdown]
# ## Tokens: had the order settled?
#
# Where runs are measured on their way (`train.eval_points`), their order then can be compared
# with that at the end: the mean of bits per byte over the domains, one dot a run.

# %%
trail = study.store.query(
    "select run_id, tokens, avg(value) as bpb from metrics where name like 'bpb/%' group by all"
)
trail = trail[trail["run_id"].isin(runs.weights.index)].pivot(
    index="run_id", columns="tokens", values="bpb"
)
agreement = trail.corr(method="spearman").iloc[:-1, -1].rename_axis("after [tokens]")
agreement.rename("rank correlation with the end [Spearman ρ]").to_frame().round(3)

# %%
told = "**Answer.** Not known: runs were measured at their end alone (`train.eval_points`)."
if len(agreement):
    half, end = trail.columns[len(trail.columns) // 2 - 1], trail.columns[-1]
    axes = trail.plot.scatter(half, end, figsize=(4.4, 4))
    axes.set(
        xlabel=f"after {half:,} tokens [bits per byte]", ylabel=f"after {end:,} [bits per byte]"
    )
    told = (
        f"**Answer.** After {half:,} of {end:,} tokens the order agreed with the last to "
        f"ρ = {agreement[half]:.3f}. "
        + (
            "Shorter runs, and more of them, would do for this horizon."
            if agreement[half] > 0.95
            else "It was still changing: longer runs may say something else."
        )
    )
Markdown(told)

# %% [markdown]
# ## Size: do larger models agree?
#
# A ladder trains some of the mixtures again at larger sizes. What counts is whether pairs of
# mixtures come out in the same order.

# %%
known = any(verdict.accuracy for verdict in fit.proposal.transfer)
larger = study.transfer() if known else []
plot.transfer() if known else Markdown("No larger proxies were trained (`ladder:`).")

# %%
columns = {
    "mixtures": "mixtures",
    "accuracy": "pairs alike [share]",
    "accuracy_low": "low [share]",
    "accuracy_high": "high [share]",
    "spearman": "rank correlation [Spearman ρ]",
}
asked = ["objective", *fit.objective.metrics]
for size in larger:
    table = size.table.set_index("metric").reindex(asked)[list(columns)]
    display(table.rename(columns=columns).astype(float).round(3))
verdicts = ". ".join(size.verdict() for size in larger) or "Not known"
Markdown(f"**Answer.** {verdicts}.")
