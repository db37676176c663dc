"""A checkpoint restores training to the bit, and half of one is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from proxy_trainer import checkpoint
from proxy_trainer.checkpoint import Progress
from proxy_trainer.models.gpt import GPT
from proxy_trainer.optim import adamw
from regmix.config import ModelConfig, TrainConfig
from regmix.sizes import plan, shape

SHAPE = shape(ModelConfig(size="50k", d_model=16, layers=2, heads=2, context=32))
PLAN = plan(TrainConfig(tokens=6400, batch_tokens=64, lr=0.01), SHAPE)


def fresh(tied: bool = False) -> tuple[GPT, torch.optim.AdamW]:
    dims = shape(ModelConfig(size="50k", d_model=16, layers=2, heads=2, tied_embeddings=tied))
    model = GPT(dims, 100)
    model.initialise(0)
    return model, adamw(model, PLAN)


def train(model: GPT, optimiser: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(100, (2, 33), generator=generator)
        logits = model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


@pytest.mark.parametrize("tied", [False, True])
def test_training_goes_on_to_the_bit(tmp_path: Path, tied: bool) -> None:
    whole, whole_optimiser = fresh(tied)
    train(whole, whole_optimiser, range(12))
    first, first_optimiser = fresh(tied)
    train(first, first_optimiser, range(5))
    checkpoint.save(tmp_path, first, first_optimiser, Progress(5, 1.25))
    second, second_optimiser = fresh(tied)
    assert checkpoint.load(tmp_path, second, second_optimiser) == Progress(5, 1.25)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    train(second, second_optimiser, range(5, 12))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        for key, value in whole_optimiser.state[theirs].items():
            assert torch.equal(second_optimiser.state[ours][key], value)


def test_a_later_checkpoint_replaces_the_earlier(tmp_path: Path) -> None:
    model, optimiser = fresh()
    for step in (1, 2):
        train(model, optimiser, range(step - 1, step))
        checkpoint.save(tmp_path, model, optimiser, Progress(step, 0.0))
    found = checkpoint.load(tmp_path, *fresh())
    assert found is not None
    assert found.step == 2
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.FILE]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "absent", *fresh()) is None


@pytest.mark.parametrize("keep", [0, 4, 100, -1000, -1])
def test_a_shortened_file_is_ignored_and_touches_nothing(tmp_path: Path, keep: int) -> None:
    model, optimiser = fresh()
    train(model, optimiser, range(3))
    checkpoint.save(tmp_path, model, optimiser, Progress(3, 0.0))
    path = tmp_path / checkpoint.FILE
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    again, again_optimiser = fresh()
    before = {n: v.clone() for n, v in again.state_dict().items()}
    assert checkpoint.load(tmp_path, again, again_optimiser) is None
    assert all(torch.equal(v, before[n]) for n, v in again.state_dict().items())
    assert not again_optimiser.state


def test_a_file_of_something_else_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.FILE
    path.write_bytes(b"PK\x03\x04" + bytes(1000))
    assert checkpoint.load(tmp_path, *fresh()) is None
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, path)
    assert checkpoint.load(tmp_path, *fresh()) is None
