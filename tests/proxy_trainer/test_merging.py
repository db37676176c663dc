"""Averages of models: exact, and refused where there is none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from proxy_trainer import merging
from proxy_trainer.evals import whole
from proxy_trainer.launch.claims import Claimant
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.folder import Weights, load_folder
from proxy_trainer.train import train
from regmix.errors import RegmixError, UserError
from regmix.sizes import ModelShape
from regmix.study import Study

VOCAB = 512


def shape(*, tied: bool = False, width: int = 16) -> ModelShape:
    return ModelShape(width, 1, 2, 2, 48, 32, False, tied)


@pytest.fixture
def made(tmp_path: Path, study: Study) -> list[Path]:
    """Three saved models of one shape and other weights."""
    return [save(tmp_path / f"model-{seed}", seed, study) for seed in range(3)]


def save(folder: Path, seed: int, study: Study, of: ModelShape | None = None) -> Path:
    of = of or shape()
    array = ModelArray.initialised(of, VOCAB, [seed])
    hf.save(array.member(0), of, folder, study.layout.tokenizer, 0)
    return folder


def test_the_average_of_equal_models_is_the_model(made: list[Path]) -> None:
    own = load_file(made[0] / "model.safetensors")
    for count in (1, 2, 3, 7):
        found = merging.Average([made[0]] * count)
        assert found.keys() == own.keys()
        for name, tensor in own.items():
            assert torch.equal(found[name], tensor)


def test_weights_are_what_they_say(made: list[Path], tmp_path: Path) -> None:
    tables = [load_file(folder / "model.safetensors") for folder in made]
    merging.merge_folders(made, tmp_path / "merged", [1, 0, 3])
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in found.items():
        expected = (tables[0][name].double() + 3 * tables[2][name].double()) / 4
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_what_was_merged(study: Study, tmp_path: Path, tied: bool) -> None:
    folders = [save(tmp_path / f"m{i}", i, study, shape(tied=tied)) for i in range(2)]
    merging.merge_folders(folders, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    parts = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in folders]
    for name, tensor in merged.state_dict().items():
        mean = torch.stack([p.state_dict()[name].double() for p in parts]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-9)


def test_models_that_are_not_alike_are_refused(
    made: list[Path], study: Study, tmp_path: Path
) -> None:
    wider = save(tmp_path / "wider", 0, study, shape(width=32))
    with pytest.raises(UserError, match=r"'.*' has shape .*, in .*model-0"):
        merging.Average([made[0], wider])
    with pytest.raises(UserError, match=r"wider/config\.json: 'head_dim' differs from that of"):
        merging.merge_folders([made[0], wider], tmp_path / "merged")
    other = tmp_path / "other"
    shutil.copytree(made[1], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"tokenizer\.json: 'model' differs from that of"):
        merging.merge_folders([made[0], other], tmp_path / "merged")
    shutil.copyfile(made[1] / "tokenizer.json", other / "tokenizer.json")
    (other / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(UserError, match=r"model-0/chat_template\.jinja: not there"):
        merging.merge_folders([made[0], other], tmp_path / "merged")
    (made[0] / "chat_template.jinja").write_text("{{ messages[0] }}")
    with pytest.raises(UserError, match=r"other/chat_template\.jinja: differs from"):
        merging.merge_folders([made[0], other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_a_trainer_left_beside_a_model_is_not_taken(made: list[Path], tmp_path: Path) -> None:
    (made[0] / "checkpoint-10").mkdir()
    (made[0] / "checkpoint-10" / "optimizer.pt").write_bytes(b"pickled")
    (made[0] / "rng_state.pth").write_bytes(b"pickled")
    for folder, version in zip(made, ("5.1", "5.2", "5.3"), strict=True):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "transformers_version": version}))
    merging.merge_folders(made, tmp_path / "merged")
    assert {p.name for p in (tmp_path / "merged").iterdir()} == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "model.safetensors", "README.md",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "2 weights for 3 models"),
        ([1.0, -1.0, 1.0], "must be 0 or more"),
        ([0.0, 0.0, 0.0], "not all 0"),
        ([1.0, float("nan"), 1.0], "must be 0 or more"),
    ],
)
def test_weights_that_are_none_are_refused(
    made: list[Path], weights: list[float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        merging.Average(made, weights)


def test_what_is_there_is_not_overwritten(made: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        merging.merge_folders(made[:2], made[2])
    with pytest.raises(UserError, match="no such folder"):
        merging.Average([made[0], tmp_path / "nowhere"])
    damaged = tmp_path / "damaged"
    shutil.copytree(made[0], damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(UserError, match=r"damaged: has no 'model\.norm\.weight'"):
        merging.Average([made[0], damaged])


def test_no_more_than_one_file_of_weights_is_held(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models go by tensor by tensor, and what is written has the index that transformers reads."""
    alive: list[weakref.ref[Tensor]] = []
    read = Weights.tensor

    def tensor(self: Weights, name: str) -> Tensor:
        found = read(self, name)
        alive.append(weakref.ref(found))
        assert sum(ref() is not None for ref in alive) <= 2, "models are held whole"
        return found

    monkeypatch.setattr(Weights, "tensor", tensor)
    merging.merge_folders(made, tmp_path / "merged", shard_bytes=10_000)
    assert (tmp_path / "merged" / hf.INDEX).exists()
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) > 2
    whole = merging.Average(made)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, whole[name])


def test_a_merge_that_is_killed_is_made_again(made: list[Path], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom proxy_trainer import merging\n"
        "*models, output = map(Path, sys.argv[1:])\n"
        "merging.merge_folders(models, output, measure=lambda _: os.kill(os.getpid(), 9))\n"
    )
    output = tmp_path / "merged"
    ended = subprocess.run([sys.executable, "-c", code, *made, output], env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert not output.exists()
    merging.merge_folders(made, output)
    assert (output / "config.json").exists()


def test_a_merge_that_fails_leaves_nothing(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers computes otherwise from what was written has no name afterwards."""
    write = hf.write_weights

    def damaged(*arguments: Any) -> None:
        folder, sizes, tensor, shard_bytes = arguments
        write(folder, sizes, lambda name: tensor(name) + 1, shard_bytes)

    monkeypatch.setattr(hf, "write_weights", damaged)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RegmixError, match="transformers computes other logits"):
        merging.merge_folders(made, tmp_path / "merged")
    assert sorted(tmp_path.iterdir()) == before


def test_the_card_is_the_averages_own(made: list[Path], tmp_path: Path) -> None:
    (made[0] / "README.md").write_text("the first model's own")
    output = tmp_path / "merged"
    merging.merge_folders(made, output, [1, 1, 2], measure=lambda _: {"bpb/books": 1.25})
    card = (output / "README.md").read_text().replace("\\", "")
    assert "the first model's own" not in card
    for name, share in (("model-0", 0.25), ("model-1", 0.25), ("model-2", 0.5)):
        assert f"/{name} | {share} |" in card
    assert "| bpb/books | 1.25 |" in card
    assert "from those of the average by at most" in card


def test_one_command_makes_an_average(study: Study) -> None:
    """While another process has its claim it is left alone; what a killed one left is cleared."""
    parts = [replace(study.propose().specs[0], seed=seed, keep_model=True) for seed in (1, 2)]
    spec = replace(parts[0], name="both", merge=tuple(p.run_id for p in parts))
    for own in (*parts, spec):
        study.add_run(own)
    train(study.layout, [study.layout.run(p.run_id) for p in parts], checkpoint_seconds=1e9)
    run = study.layout.run(spec.run_id)
    left = run.root / ".model.tmp-left"
    left.mkdir()
    with Claimant(study.layout.runs, "other", 60.0).at_work() as other:
        assert other.take(run)
        with pytest.raises(RegmixError, match=f"run {spec.run_id}: being averaged by other"):
            merging.carry_out(study.layout, spec)
        assert left.exists()
        other.release_all("done")
    merging.carry_out(study.layout, spec)
    assert not left.exists()
    metrics = json.loads(run.done.read_text())["metrics"]
    card = (run.model / "README.md").read_text().replace("\\", "")
    assert all(f"| {p.run_id} | 0.5 |" in card for p in parts)
    assert all(name in card for name in metrics)
    content = run.done.read_text()
    merging.carry_out(study.layout, spec)
    assert run.done.read_text() == content

    own = study.layout.run(parts[0].run_id).done
    told = json.loads(own.read_text())
    told["environment"]["precision"] = "bfloat16"
    own.write_text(json.dumps(told))
    run.done.unlink()
    merging.carry_out(study.layout, spec)
    rough = json.loads(run.done.read_text())["metrics"]
    assert rough != metrics, "not in the precision of its parts"
    assert rough == pytest.approx(metrics, rel=5e-3)


def test_what_does_not_fit_into_memory_is_not_begun(
    made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_folder(made[0])[1]
    monkeypatch.setattr(whole, "free_memory", lambda: whole.needed_for(weights) - 1)
    with pytest.raises(RegmixError, match=r"GB of memory are needed to measure it, .* are free"):
        whole.WholeModel(weights)
