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
# # 5. From proposal to training
#
# *The fit proposes a mixture. Does training on it do what was predicted?*
#
# Three steps: hand the mixture to a trainer, train with it, compare. The commands are those of a
# terminal; files that are not the study's go to a temporary folder.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from regmix import Study

study = Study.open(os.environ.get("REGMIX_STUDY", "../demo"))
fit, plot, work = study.fit(), study.plot, Path(tempfile.mkdtemp())
mixture = study.layout.mixture(fit.mixture_name)


def shown(text):
    """Text with the two folders by short names."""
    return text.replace(str(study.layout.root), "STUDY").replace(str(work), "WORK").strip()


def regmix(*words):
    """Run a command and show it."""
    words = [str(word) for word in words]
    command = [sys.executable, "-m", "regmix.cli", *words]
    wide = {**os.environ, "COLUMNS": "110", "FORCE_COLOR": ""}  # which kernels set
    done = subprocess.run(command, capture_output=True, text=True, env=wide)
    print(shown(f"$ regmix {' '.join(words)}\n{done.stdout}{done.stderr}"))
    done.check_returncode()


fit.best

# %% [markdown]
# ## Export
#
# Each trainer has its own format and weighs tokens or documents; the exporter converts, and says
# what it did. The same mixture for two of them, of which the second draws whole documents:

# %%
regmix("export", mixture, "--to", "levanter", "-o", work / "levanter.yaml")

# %%
regmix("export", mixture, "--to", "interleave-json", "-o", work / "interleave.json")
written = pd.DataFrame(json.loads((work / "interleave.json").read_text())["datasets"])
weights = {"tokens": fit.best.as_dict(), "documents": written.set_index("name")["weight"]}
pd.DataFrame(weights).add_prefix("share of ").rename_axis("domain").round(4)

# %% [markdown]
# And back: the file of a trainer as a mixture, to see that nothing was lost on the way.

# %%
trainer = ["--from", "levanter", "--study", study.layout.root]
regmix("import-mixture", work / "levanter.yaml", *trainer, "-o", work / "back.yaml")

# %% [markdown]
# ## Run
#
# `regmix run` takes a model through the stages of a recipe: pretraining, mid-training, SFT. This
# recipe has one stage and is as short as it can be: a proxy on the proposed mixture. What the fit
# said of such a model can then be held against it.

# %%
recipe = {
    "kind": "recipe",
    "name": "rehearsal",
    "study": str(study.layout.root),
    "seed": study.config.seed,
    "model": study.config.proxy.model.model_dump(mode="json", exclude_unset=True),
    "stages": [
        {
            "name": "pretrain",
            "kind": "pretrain",
            "mixture": str(mixture),
            "train": study.config.proxy.train.model_dump(mode="json", exclude_unset=True),
        }
    ],
}
(work / "rehearsal.yaml").write_text(json.dumps(recipe))  # JSON is YAML
regmix("run", work / "rehearsal.yaml")

# %%
trained = study.store.query(
    "select m.name as metric, arg_max(m.value, m.step) as measured from metrics m "
    "join runs r using (run_id) where r.name = 'rehearsal-pretrain' group by m.name"
).set_index("metric")["measured"]
told = pd.DataFrame(fit.proposal.best.metrics, index=["predicted", "std"]).T
told = told.join(trained, how="inner")
off = ((told["measured"] - told["predicted"]) / told["std"]).rename("off by [std]")
inside = int((off.abs() < 1.645).sum())
told.add_suffix(" [bits per byte]").join(off).round(3)

# %%
Markdown(f"**Answer.** {inside} of {len(told)} measurements lie in the prediction's 90% interval.")

# %% [markdown]
# ## Compare
#
# What counts is the larger model, and whether the proposal beats what one would have taken
# without it. `regmix demo` trains proposal, natural and uniform at the target size, with the same
# seeds. The prediction (diamonds) is for the proxies' size: at another one its sign is expected
# to hold, its amount less so.

# %%
compared = study.comparison()
lacking = Markdown("Nothing was trained at the target size: the comparison is left out.")
plot.gains() if compared else lacking

# %%
plot.metric_gains(next(iter(study.references()))) if compared else lacking

# %%
if compared:
    values = compared.values.drop(columns=["run_id", "seed"])
    means = values.groupby("mixture", sort=False).mean().T.add_suffix(" [bits per byte]")
means.round(4) if compared else lacking

# %%
told = ["Not known, as nothing was trained at the target size."]
if compared:
    told = []
    for own in plot.gains().frame().query("kind == 'measured'").itertuples():
        verdict = "better" if own.low > 0 else "worse" if own.high < 0 else "not told apart"
        told.append(
            f"Against {own.reference} the objective gained {own.gain:+.4f} (seed noise allows "
            f"{own.low:+.4f} to {own.high:+.4f}): {verdict}."
        )
    size = f"{compared.parameters:,} parameters without embeddings and {compared.tokens:,} tokens"
    told.append(f"These are models of {size}.")
Markdown("**Answer.** " + " ".join(told))
