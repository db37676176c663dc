"""Models of runs that are not finished, out of their checkpoints, to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from proxy_trainer import checkpoint
from proxy_trainer.environment import choose_device
from proxy_trainer.evals.choice import DecoderReader
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.models.array import ModelArray
from proxy_trainer.sharded import checkpoint as sharded
from proxy_trainer.sharded.model import without_weights
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.runs import RunSpec
from regmix.sizes import ModelShape


def steps(run: RunLayout) -> list[int]:
    """Steps that a run has checkpoints of, the last first."""
    folder = run.checkpoints
    found = {step for step, _ in (*checkpoint.found(folder), *sharded.found(folder))}
    return sorted(found, reverse=True)


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
    first, device = specs[0], choose_device()
    if not isinstance(first.model, ModelShape):
        table = sharded.read_model(_place(runs[0], step), _sizes(first))
        one = WholeModel.of(first.model, first.vocab_size, table)
        one.decoder.to(device)
        return Models(one, DecoderReader(one.decoder), tokenizer, first.model.context, opening)
    array = ModelArray(first.model, first.vocab_size, len(runs))
    for member, run in enumerate(runs):
        _fill(array, member, run, first, step)
    return Models.of_array(array.to(device), tokenizer, opening)


@torch.no_grad()
def _fill(array: ModelArray, member: int, run: RunLayout, spec: RunSpec, step: int) -> None:
    path = _place(run, step)
    if path.is_dir():
        table = sharded.read_model(path, _sizes(spec))
        table.setdefault("lm_head.weight", table["model.embed_tokens.weight"])
        array.load_member(member, table)
        return
    for name, value in checkpoint.read_model(path).items():
        array.get_parameter(name)[member].copy_(value)


def _place(run: RunLayout, step: int) -> Path:
    """A file, or the folder of a sharded run's."""
    for found, path in (*checkpoint.found(run.checkpoints), *sharded.found(run.checkpoints)):
        if found == step:
            return path
    there = ", ".join(map(str, steps(run))) or "none"
    raise UserError(f"{run.checkpoints}: no checkpoint of step {step} (there is {there})")


def _sizes(spec: RunSpec) -> dict[str, tuple[int, ...]]:
    model = without_weights(spec.model, spec.vocab_size)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}
