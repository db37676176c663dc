"""Models of runs that are not finished, out of their checkpoints, to be asked."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from torch import Tensor

from proxy_trainer import checkpoint, retention
from proxy_trainer.environment import choose_device
from proxy_trainer.evals.choice import DecoderReader
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.kept import Part
from proxy_trainer.models.array import ModelArray
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.runs import RunSpec
from regmix.sizes import ModelShape


def steps(run: RunLayout) -> list[int]:
    """Steps that a run has checkpoints of, the last first."""
    return list(dict.fromkeys(step for step, _ in retention.found(run.checkpoints)))


def load(
    runs: Sequence[RunLayout],
    specs: Sequence[RunSpec],
    step: int,
    tokenizer: Tokenizer,
    opening: int,
) -> Models:
    """Models after a step, on this process's device: several native ones, or one of any kind.

    Args:
        specs: of the runs, which are alike in shape and vocabulary.
        opening: the token that opens a document.

    Raises:
        UserError: there is no such checkpoint any more: training has gone on, or ended.
    """
    first = specs[0]
    if not isinstance(first.model, ModelShape):
        one = WholeModel.of(first.model, first.vocab_size, _weights(runs[0], step))
        return Models(one, DecoderReader(one.decoder), tokenizer, first.model.context, opening)
    array = ModelArray(first.model, first.vocab_size, len(runs))
    for member, run in enumerate(runs):
        table = _weights(run, step)
        table.setdefault("lm_head.weight", table["model.embed_tokens.weight"])
        array.load_member(member, table)
    return Models.of_array(array.to(choose_device()), tokenizer, opening)


def _weights(run: RunLayout, step: int) -> dict[str, Tensor]:
    """All of a checkpoint's, by the names of transformers."""
    path = checkpoint.at(run.checkpoints, step)
    if path is None:
        there = ", ".join(map(str, steps(run))) or "none"
        raise UserError(
            f"{run.checkpoints}: no checkpoint of step {step} that can be read (there is {there})"
        )
    try:
        return dict(Part(checkpoint.read(path).tensors, "model."))
    except checkpoint.UNREADABLE as exc:
        raise UserError(f"{path}: not a checkpoint that can be read ({exc})") from exc
