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
# # 1. First look at a study
#
# *What was tried, is it more than luck, which mixture does it speak for, and how far can that be
# believed?*
#
# A study is a folder: domains of text, and small models (proxies) that were each trained on
# another mixture of them. This page opens one and asks the four questions in that order. It needs
# a swarm that has been trained, such as `make demo` leaves; `REGMIX_STUDY` names another. Shares
# are shares of training tokens everywhere, and metrics named `bpb/…` are bits per byte of
# held-out text, of which fewer are better.

# %%
import os

from IPython.display import Markdown

from regmix import Study

study = Study.open(os.environ.get("REGMIX_STUDY", "../demo"))
study

# %% [markdown]
# ## What was tried?
#
# One row a domain: the shares that the runs gave it. A fit can interpolate between these and
# knows nothing of what lies beyond them.

# %%
runs = study.fitted()
tried = runs.weights.quantile([0, 0.25, 0.5, 0.75, 1]).T.round(3)
tried.columns = [f"{name} [share of tokens]" for name in ("least", "25%", "median", "75%", "most")]
tried.rename_axis("domain")

# %%
plot = study.plot
plot.shares()

# %% [markdown]
# ## Is it more than luck?
#
# Two models of one mixture differ by their seeds. A metric tells mixtures apart only as far as
# its spread over the mixtures exceeds that. The figure shows those that do least so, the
# table the twelve that do most.

# %%
repeated = not runs.repeats().empty
unknown = Markdown("No mixture was repeated with another seed: the noise is not known.")
plot.noise_floor() if repeated else unknown

# %%
noise = study.noise().metrics
table = noise[["kind", "snr", "spread", "seed", "counts"]].round(4)
table.columns = [
    "class",
    "spread over noise [ratio]",
    "spread [unit of the metric]",
    "seed noise [unit of the metric]",
    "difference of two runs that counts [unit of the metric]",
]
table.head(12)

# %%
stable = noise["kind"].isin(["stable", "very stable"]).sum()
clearest = noise.iloc[0]
answer = Markdown(
    f"**Answer.** Of {len(noise)} metrics {stable} stand above the seeds. The clearest is "
    f"`{clearest.name}`, whose spread is {clearest['snr']:.1f} times the noise: two runs differ in "
    f"it when they are {clearest['counts']:.4f} apart."
)
answer if repeated else unknown

# %% [markdown]
# ## Which mixture?
#
# The fit goes from mixture to metric, one regressor a metric, and is judged on runs that it has
# not seen. The proposal is the mixture whose predicted objective is best. The black range on its
# bar matters as much as the bar: mixtures within it cannot be told from the best one.

# %%
fit = study.fit()
plot.weights()

# %%
plot.gains()

# %%
proposal = fit.proposal
usual = proposal.baseline("natural") or proposal.baseline("uniform")
first, second = sorted(fit.best.domains, key=lambda domain: -fit.best[domain])[:2]
low, high = proposal.tied[first]
gain, error = usual.gain
Markdown(
    f"**Answer.** Most of `{first}` ({fit.best[first]:.0%}; as good from {low:.0%} to {high:.0%}), "
    f"then of `{second}` ({fit.best[second]:.0%}). Against the {usual.name} mixture the objective, "
    f"{fit.objective.describe()}, is predicted to gain {gain:+.4f} (90% interval "
    f"{gain - 1.645 * error:+.4f} to {gain + 1.645 * error:+.4f}) at the proxies' size."
)

# %% [markdown]
# ## Why believe it?
#
# Every dot is a run, predicted by a fit that had not seen it.

# %%
plot.held_out()

# %%
fit

# %% [markdown]
# ## What drives it?
#
# What happens to the objective when one domain's share moves and the others keep their ratios;
# then the same for every metric.

# %%
plot.effects()

# %%
plot.matrix()

# %% [markdown]
# ## What it can say, and what it cannot
#
# The same findings as `regmix diagnose`, computed from the swarm and the fit.

# %%
findings = study.diagnose()
can, cannot = ("".join(f"\n- {text}" for text in findings.say(kind)) for kind in ("can", "cannot"))
Markdown(f"**It can say:**\n{can}\n\n**It cannot say:**\n{cannot}")
