"""Moments of a finished model: read one by one, written before its weights are gathered."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from proxy_trainer import kept, retention
from proxy_trainer import moments as module
from proxy_trainer.checkpoint import Progress
from proxy_trainer.members import Members
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import load_folder
from proxy_trainer.moments import Moments
from proxy_trainer.sharded.checkpoint import write
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.sharded.trainee import Sharded
from proxy_trainer.train import train
from regmix.config import TrainConfig
from regmix.errors import UserError
from regmix.sizes import ModelShape, plan
from regmix.study import Study

SHAPE = ModelShape(16, 2, 2, 2, 48, 32, False, False)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Tensor]]:
    """The tensors that are read from files of moments, as long as they live."""
    found: list[weakref.ref[Tensor]] = []
    opened = kept.safe_open

    class Watched:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = opened(*arguments, **options)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def metadata(self) -> Any:
            return self.file.metadata()

        def get_slice(self, name: str) -> Any:
            return self.file.get_slice(name)

        def get_tensor(self, name: str) -> Tensor:
            tensor: Tensor = self.file.get_tensor(name)
            if name != "optimiser.step":
                found.append(weakref.ref(tensor))
                assert sum(ref() is not None for ref in found) <= 2, "tensors are kept"
            return tensor

    monkeypatch.setattr(kept, "safe_open", Watched)
    return found


def saved(folder: Path) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    whole = ModelArray.initialised(SHAPE, 512, [0]).member(0)
    own = {
        kind: {name: torch.rand(t.shape, generator=generator) for name, t in whole.items()}
        for kind in ("exp_avg", "exp_avg_sq")
    }
    Moments(7.0, **own).save(folder)
    return own


def test_tensors_are_read_when_they_are_asked_for(
    tmp_path: Path, read: list[weakref.ref[Tensor]]
) -> None:
    own = saved(tmp_path)
    found = Moments.load(tmp_path)
    assert not read
    assert found.step == 7.0
    for kind, table in own.items():
        lazy = getattr(found, kind)
        assert set(lazy) == set(table)
        assert "nothing" not in lazy
        for name, tensor in table.items():
            assert torch.equal(lazy[name], tensor)


def test_a_sharded_run_holds_one_moment_at_a_time(
    tmp_path: Path, study: Study, ranks: Ranks, read: list[weakref.ref[Tensor]]
) -> None:
    own = saved(tmp_path / "state")
    weights = ModelArray.initialised(SHAPE, 512, [0]).member(0)
    hf.save(weights, SHAPE, tmp_path / "model", study.layout.tokenizer, 0)
    settled = plan(TrainConfig(tokens=32 * 4 * 8, batch_tokens=128), SHAPE)
    trainee = Sharded(SHAPE, 512, settled, None, ranks, separator=0)
    found = Moments.load(tmp_path / "state")
    trainee.begin(load_folder(tmp_path / "model")[1], found)
    assert len(read) == 2 * len(weights)
    again = tmp_path / "again"
    left = retention.unfinished(again)
    left.mkdir()
    save_file({"optimiser.step": torch.zeros(())}, left / "shard-of-one-killed.safetensors")
    write(again, trainee.moments(), Progress(8), ranks)
    written = Moments.load(again)
    assert written.step == 7.0
    for kind, table in own.items():
        for name, tensor in table.items():
            assert torch.equal(getattr(written, kind)[name], tensor)
    shard = next(again.glob("*.safetensors"))
    shard.rename(tmp_path / "lost.safetensors")
    with pytest.raises(UserError, match="not an optimiser's state"):
        Moments.load(again)


def test_moments_are_written_and_gone_before_weights_are_gathered(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(study.propose().specs[0], keep_model=True, keep_state=True)
    study.add_run(spec)
    run = study.layout.run(spec.run_id)
    held: list[weakref.ref[Tensor]] = []
    gather: Callable[[Members, int], Moments] = Members.moments
    weights = ModelArray.member

    def moments(self: Members, member: int) -> Moments:
        found = gather(self, member)
        held.extend(weakref.ref(t) for t in found.exp_avg.values())
        return found

    def member(self: ModelArray, member: int) -> dict[str, Tensor]:
        assert (run.state / module.FILE).exists()
        assert held
        assert not any(ref() is not None for ref in held), "moments are held still"
        return weights(self, member)

    monkeypatch.setattr(Members, "moments", moments)
    monkeypatch.setattr(ModelArray, "member", member)
    train(study.layout, [run], checkpoint_seconds=1e9)
    assert run.done.exists()


def test_what_are_no_moments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="optimiser: fresh"):
        Moments.load(tmp_path)
    one = {"optimiser.step": torch.tensor(1.0), "optimiser.w.exp_avg": torch.zeros(2)}
    save_file(one, tmp_path / module.FILE)
    with pytest.raises(UserError, match="'w' has one moment of two"):
        Moments.load(tmp_path)
    save_file({"step": torch.tensor(1.0), "w.other": torch.zeros(2)}, tmp_path / module.FILE)
    with pytest.raises(UserError, match="not an optimiser's state"):
        Moments.load(tmp_path)
    (tmp_path / module.FILE).write_bytes(b"cut")
    with pytest.raises(UserError, match="not an optimiser's state"):
        Moments.load(tmp_path)
