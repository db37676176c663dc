"""A checkpoint restores training to the bit, in any company, and half of one is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from proxy_trainer import checkpoint, retention
from proxy_trainer.data.batch import Batch
from proxy_trainer.members import Members
from regmix.config import ModelConfig, TrainConfig
from regmix.sizes import plan, shape

SHAPE = shape(ModelConfig(size="50k", d_model=16, layers=2, heads=2, context=32))
CPU = torch.device("cpu")


def fresh(*seeds: int, tied: bool = False, skip_sigma: float = 0.0) -> Members:
    dims = shape(ModelConfig(size="50k", d_model=16, layers=2, heads=2, tied_embeddings=tied))
    made = plan(TrainConfig(tokens=6400, batch_tokens=64, lr=0.01, skip_sigma=skip_sigma), SHAPE)
    return Members(dims, 100, made, seeds or (0,), device=CPU, separator=0)


def train(members: Members, steps: range, seeds: Sequence[int] = (0,)) -> None:
    for step in steps:
        batch = [
            torch.randint(100, (2, 33), generator=torch.Generator().manual_seed(100 * seed + step))
            for seed in seeds
        ]
        members.step(step, Batch(torch.stack(batch)), [0.01] * len(seeds))


def same(a: Members, b: Members, place: int = 0) -> bool:
    one, other = a.checkpoint(0, 0, 0.0), b.checkpoint(place, 0, 0.0)
    assert one.tensors.keys() == other.tensors.keys()
    return all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


@pytest.mark.parametrize("skip_sigma", [0.0, 6.0])
@pytest.mark.parametrize("tied", [False, True])
def test_training_goes_on_to_the_bit(tmp_path: Path, tied: bool, skip_sigma: float) -> None:
    whole = fresh(tied=tied, skip_sigma=skip_sigma)
    train(whole, range(12))
    first = fresh(tied=tied, skip_sigma=skip_sigma)
    train(first, range(5))
    checkpoint.save(tmp_path, first.checkpoint(0, 5, 1.25), retention.USUAL)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress == checkpoint.Progress(5, 1.25)
    second = fresh(1, tied=tied, skip_sigma=skip_sigma)
    second.load(0, found)
    assert same(first, second)
    train(second, range(5, 12))
    assert same(whole, second)


def test_a_member_goes_on_in_other_company(tmp_path: Path) -> None:
    alone = fresh(2)
    train(alone, range(9), [2])
    three = fresh(0, 1, 2)
    train(three, range(4), [0, 1, 2])
    for k in range(3):
        checkpoint.save(tmp_path / str(k), three.checkpoint(k, 4, 0.0), retention.USUAL)
    two = fresh(5, 6)
    for place, k in enumerate([2, 0]):
        found = checkpoint.load(tmp_path / str(k))
        assert found is not None
        two.load(place, found)
    train(two, range(4, 9), [2, 0])
    assert same(alone, two)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    members = fresh()
    for step in (1, 2, 3, 4):
        train(members, range(step - 1, step))
        checkpoint.save(tmp_path, members.checkpoint(0, step, 0.0), retention.USUAL)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 4
    assert [step for step, _ in retention.found(tmp_path)] == [4, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_to_stay_stays(tmp_path: Path) -> None:
    """Files and folders alike, of a finished run too; what was never whole goes."""
    members = fresh()
    kept = retention.Retention(last=1, every=3)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, members.checkpoint(0, step, 0.0), kept)
    for step in (4, 6):
        (tmp_path / retention.name_of(step)).mkdir()
    checkpoint.save(tmp_path, members.checkpoint(0, 7, 0.0), kept)
    assert [step for step, _ in retention.found(tmp_path)] == [7, 6, 3]
    (tmp_path / ".step-000000009.part").mkdir()
    kept.clear(tmp_path)
    assert [step for step, _ in retention.found(tmp_path)] == [6, 3]
    assert len(list(tmp_path.iterdir())) == 2
    retention.USUAL.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "absent") is None


@pytest.mark.parametrize("keep", [0, 4, 100, -1000, -1])
def test_a_shortened_file_gives_way_to_the_one_before(tmp_path: Path, keep: int) -> None:
    members = fresh()
    for step in (3, 6):
        train(members, range(step - 3, step))
        checkpoint.save(tmp_path, members.checkpoint(0, step, 0.0), retention.USUAL)
    (_, last), (_, before) = retention.found(tmp_path)
    os.truncate(last, keep if keep >= 0 else last.stat().st_size + keep)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 3
    os.truncate(before, 10)
    assert checkpoint.load(tmp_path) is None


def test_whoever_goes_on_keeps_what_it_writes_below_a_damaged_step(tmp_path: Path) -> None:
    """And what a killed process had begun to write is gone."""
    members = fresh()
    last = retention.Retention(last=1)
    checkpoint.save(tmp_path, members.checkpoint(0, 9, 0.0), last)
    [(_, path)] = retention.found(tmp_path)
    os.truncate(path, 100)
    (tmp_path / ".step-000000009.safetensors.tmp-abc").write_bytes(b"half")
    assert checkpoint.resume(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    for step in (2, 4):
        checkpoint.save(tmp_path, members.checkpoint(0, step, 0.0), last)
        found = checkpoint.resume(tmp_path)
        assert found is not None
        assert found.progress.step == step


def test_what_a_network_file_system_still_holds_is_let_be(tmp_path: Path) -> None:
    held = tmp_path / ".nfs000000000000001"
    held.write_bytes(b"removed while it was open")
    retention.USUAL.clear(tmp_path)
    assert held.exists()


def test_a_file_of_something_else_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "step-000000003.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(1000))
    assert checkpoint.load(tmp_path) is None
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, path)
    assert checkpoint.load(tmp_path) is None
