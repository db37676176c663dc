"""`regmix run`: a stage file becomes a measured model, or an error with its numbers."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxy_trainer import stages
from proxy_trainer.data import tokenizer as tokenizers
from regmix import claims
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.study import Study

STAGE = """\
study: study
mixture: mix.yaml
name: final
seed: 3
model: {size: 50k, d_model: 16, layers: 1, heads: 2, context: 64, qk_norm: true}
train: {tokens: 12800, batch_tokens: 256, lr: 0.005, eval_bytes: 1000}
"""
WEIGHTS = {"prose": 0.5, "sums": 0.3, "code": 0.2}


@pytest.fixture
def stage(study: Study) -> Callable[..., Path]:
    """Writes a stage file beside the study, with further lines and with weights."""

    def write(further: str = "", weights: dict[str, float] = WEIGHTS) -> Path:
        folder = study.layout.root.parent
        mixture = {"kind": "mixture", "name": "mix", "weights": weights}
        (folder / "mix.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
        path = folder / "stage.yaml"
        path.write_text(STAGE + further)
        return path

    return write


def test_a_stage_is_planned_as_it_is_written(stage: Callable[..., Path], study: Study) -> None:
    opened, spec = stages.plan(stage())
    assert opened.layout == study.layout
    assert spec.mixture.as_dict() == WEIGHTS
    assert (spec.name, spec.seed, spec.role, spec.keep_model) == ("final", 3, "target", True)
    assert (spec.plan.steps, spec.plan.batch, spec.model.context) == (50, 4, 64)
    assert stages.plan(stage())[1].run_id == spec.run_id
    assert [r.spec for r in study.runs()] == [spec]


def test_weights_in_another_order_are_the_same_run(stage: Callable[..., Path]) -> None:
    first = stages.plan(stage())[1]
    second = stages.plan(stage(weights=dict(reversed(WEIGHTS.items()))))[1]
    assert second.run_id == first.run_id


def test_too_many_epochs_are_refused_with_the_numbers(
    stage: Callable[..., Path], study: Study
) -> None:
    assert study.manifest is not None
    available = study.manifest.domain("code").train.tokens
    weights = {"prose": 0.1, "sums": 0.1, "code": 0.8}
    with pytest.raises(UserError) as caught:
        stages.plan(stage("max_epochs: 1\n", weights))
    asked = 0.8 * 12_800
    assert str(caught.value) == (
        f"domain 'code': 0.8 of 12,800 tokens asks {asked / available:.2f} epochs of its "
        f"{available:,}; max_epochs is 1, short by {int(asked - available):,} tokens"
    )
    assert study.runs() == []
    stages.plan(stage("max_epochs: 2\n", weights))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"prose": 0.5, "sums": 0.3, "programs": 0.2}, "unknown domain 'programs'"),
        ({"prose": 0.5, "sums": 0.5}, "no weight for 'code'"),
        ({"prose": 0.5, "sums": 0.5, "code": 0.2}, "weights sum to 1.2, not 1"),
        ({"prose": 1.5, "sums": -0.5, "code": 0.0}, "weight of 'sums' is -0.5"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(
    stage: Callable[..., Path], study: Study, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=rf"mix\.yaml: .*{message}"):
        stages.plan(stage(weights=weights))
    assert study.runs() == []


def test_an_unknown_key_is_refused_with_the_nearest(stage: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"stage\.yaml:7: .*'max_epoch'; did you mean 'max_epochs'"):
        stages.plan(stage("max_epoch: 4\n"))


@pytest.mark.slow
def test_from_the_stage_file_to_a_model_that_transformers_loads(
    stage: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    path = stage("max_epochs: 2\n")
    command = regmix("run", path)
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 0, errors
    [record] = study.runs()
    result = record.result()
    for name, value in result["metrics"].items():
        assert re.search(rf"^{name} +{value:.4f}$", output, re.MULTILINE)
    assert str(record.layout.model) in output
    assert result["steps"] == 50
    assert sum(d["tokens"] for d in result["domains"]) == 12_800
    assert [d["requested"] for d in result["domains"]] == list(WEIGHTS.values())
    assert all(abs(d["requested"] - d["realised"]) < 1 / 200 for d in result["domains"])

    model = AutoModelForCausalLM.from_pretrained(record.layout.model)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(record.layout.model)
    ours = tokenizers.load(study.layout.tokenizer)
    text = json.loads((study.layout.root / "text/code.jsonl").read_text().split("\n")[0])["text"]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == ours.encode(text).ids
    with torch.no_grad():
        loss = model(ids[:, :64], labels=ids[:, :64]).loss.item()
    assert loss < 5.9, "no better than before training (log 512 = 6.24)"

    before = record.stamp
    again = regmix("run", path)
    assert again.wait(timeout=120) == 0
    assert study.runs()[0].stamp == before, "trained again"


@pytest.mark.slow
def test_the_command_exits_with_2_on_what_cannot_be_done_as_asked(
    stage: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    epochs = regmix("run", stage("max_epochs: 0.2\n"))
    _, errors = epochs.communicate(timeout=60)
    assert epochs.returncode == 2
    assert "max_epochs is 0.2, short by" in errors
    other = regmix("run", stage(weights={"prose": 0.5, "sums": 0.3, "web": 0.2}))
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 2
    assert "unknown domain 'web'" in errors
    assert "Traceback" not in errors
    assert study.runs() == []


@pytest.mark.slow
def test_a_model_sharded_over_processes_outlives_the_death_of_its_command(
    stage: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    path = stage()
    path.write_text(path.read_text().replace("tokens: 12800", "tokens: 76800"))
    command = regmix("run", path, "--nproc", 2)
    deadline = time.monotonic() + 60
    while not (runs := study.runs()) or not steps_of(runs[0].layout):
        assert time.monotonic() < deadline
        assert command.poll() is None, command.communicate()
        time.sleep(0.02)
    run = runs[0].layout
    command.kill()
    while not (entry := claims.last(run.claims)) or entry.kind != "released":
        assert time.monotonic() < deadline, "its processes went on without it"
        time.sleep(0.02)
    assert entry.reason == "asked to end"
    assert list(run.checkpoints.glob("step-*/progress.json"))
    again = regmix("run", path, "--nproc", 2)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert str(run.model) in output
    assert run.model.exists()


@pytest.mark.slow
def test_processes_that_do_not_divide_the_batch_are_refused(
    stage: Callable[..., Path], study: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    command = regmix("run", stage(), "--nproc", 3)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 2
    assert "4 sequences cannot be divided among 3 processes; start 1, 2, 4, or" in errors


def steps_of(run: RunLayout) -> list[int]:
    if not run.events.exists():
        return []
    return [e["step"] for e in read_events(run.events) if e["type"] == "step"]
