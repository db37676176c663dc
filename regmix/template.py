"""The commented ``study.yaml`` that ``regmix init`` writes."""

from __future__ import annotations

from pathlib import Path

from regmix import yaml_io
from regmix.config import ModelConfig, TrainConfig, name_from
from regmix.errors import UserError
from regmix.files import expanded, write_text
from regmix.layout import StudyLayout

TEMPLATE = """\
# A study: domains of text, a small proxy, and the mixture to be found.
# What stands in comments is not in force: what is called a default there holds all the same, all
# else is an example. docs/CONFIG.md has every key. An unknown key is an error.
{name}
seed: 0

domains:                          # at least two; order is kept everywhere
  - name: web
    train: text/web/*.jsonl.zst   # file, folder or glob; .jsonl .txt .parquet, .gz and .zst
    # valid: text/web-valid.jsonl # left out: 2 % of the documents, chosen by content hash
    # valid_share: 0.02           # default
  - name: code
    train:
      - path: text/code           # every known file below this folder
        text_field: content       # default: text
  # - name: wiki
  #   train: {{hub: wikimedia/wikipedia, hub_args: {{name: 20231101.en}}, split: train}}

# data:
#   tokenizer: {{vocab_size: 4096}} # default; or {{path: tokenizer.json}}
#   max_missing_text: 0.01        # default; share of documents that may lack the text field

proxy:                            # the small model; size sets width, depth, lr and tokens
  model: {{size: 1m}}               # {sizes}
  # train: {train}
  #                               # default of this size, in numbers
  # train: {{repetition: match, lr_mode: tiny}} # nearer to the full run; docs/TRANSFER.md
  # keep_model: true              # to ask it tasks that you think of later; docs/EVALUATION.md

target:                           # the model that the mixture is for
  model: {{size: 15m}}

# ladder:                         # the same mixtures at larger sizes: does their order hold?
#   - {{model: {{size: 4m}}, mixtures: 12}}

swarm:
  runs: 48                        # mixtures, uniform among them; natural and single domains on top
  # temperature: 0.5              # default; natural to this power is the centre of the Dirichlet
  # concentration: [0.5, 5]       # default
  # replicates: 3                 # default; natural mixture with this many seeds: the noise floor
  # repeat: [uniform]             # default: none; more mixtures with as many seeds; docs/NOISE.md

# space:                          # what a mixture may be; default: anything
#   bounds: {{web: [0.1, 0.8]}}
#   groups: {{prose: {{domains: [web*], lower: 0.3}}}} # or {{group: NAME}}, {{tag: NAME}}
#   ratios: {{code_to_web: {{of: [code], to: [web], upper: 0.5}}}}
#   pinned: {{kept: {{web: 3, code: 1}}}} # these keep 3 : 1, whatever their sum
#   max_epochs: 4                 # repetition cap; needs budget_tokens
#   budget_tokens: 1000000000

# objective:                      # default: mean of bits per byte over the domains
#   kind: weighted                # or relative, worst: losses against `reference`
#   weights: {{bpb/web: 1, bpb/code: 2}}
#   groups: {{prose: [bpb/web]}}    # names for `regmix pareto`
#   limits: {{reference: natural, worse: 0.0, confidence: 0.9}} # no metric worse than natural

# evaluate: {{tasks: [mmlu], data: eval, limit: 1000}} # at the end of runs; docs/EVALUATION.md
# fit: {{regressor: auto, folds: 5, bootstraps: 12}} # default
# launch: {{workers: 8}}            # default: one per device, or core; docs/LAUNCHING.md
"""


def write_template(folder: Path) -> Path:
    """Write ``study.yaml`` into a new study folder.

    Raises:
        UserError: there is one already.
    """
    from regmix.sizes import SIZES

    layout = StudyLayout(expanded(folder).resolve())
    if layout.config.exists():
        raise UserError(f"{layout.config}: is there already")
    name = yaml_io.dump({"name": name_from(layout.root)}).strip()  # quoted where it must be
    text = TEMPLATE.format(name=name, sizes=" ".join(SIZES), train=_default_training("1m"))
    write_text(layout.config, text)
    return layout.config


def _default_training(size: str) -> str:
    """What a model of a size is trained by where nothing is said, as YAML on one line."""
    from regmix.sizes import plan, shape

    model = shape(ModelConfig(size=size))
    own = plan(TrainConfig(), model)
    batch = own.batch * model.context
    return (
        f"{{tokens: {own.steps * batch}, lr: {own.lr:g}, batch_tokens: {batch}, "
        f"schedule: {own.schedule}}}"
    )
