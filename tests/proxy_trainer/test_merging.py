"""Averages of models: exact, and refused where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from proxy_trainer import merging
from proxy_trainer.models import hf
from proxy_trainer.models.array import ModelArray
from regmix.errors import UserError
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
        found = merging.average([made[0]] * count)
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
        merging.average([made[0], wider])
    with pytest.raises(UserError, match=r"config\.json: differs from"):
        merging.merge_folders([made[0], wider], tmp_path / "merged")
    other = tmp_path / "other"
    shutil.copytree(made[1], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"tokenizer\.json: differs from"):
        merging.merge_folders([made[0], other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


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
        merging.average(made, weights)


def test_what_is_there_is_not_overwritten(made: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        merging.merge_folders(made[:2], made[2])
    with pytest.raises(UserError, match="no such folder"):
        merging.average([made[0], tmp_path / "nowhere"])
    damaged = tmp_path / "damaged"
    shutil.copytree(made[0], damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(UserError, match=r"damaged: has no 'model\.norm\.weight'"):
        merging.average([made[0], damaged])
