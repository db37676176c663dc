"""A model spread over processes trains as one process trains it, killed and resumed as well."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from proxy_trainer import checkpoint
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import checkpoints
from proxy_trainer.evals.multiple_choice import MultipleChoice
from proxy_trainer.evals.results import Result
from proxy_trainer.kept import Part
from proxy_trainer.launch.claims import Claimant
from proxy_trainer.models.losses import without_weights
from proxy_trainer.moments import Moments
from proxy_trainer.retention import found
from proxy_trainer.train import train
from regmix import claims
from regmix.config import ModelConfig
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.runs import RunSpec
from regmix.runs import Start as Begin
from regmix.sizes import shape
from regmix.study import Study
from regmix.tasks import ChoiceTask

pytestmark = pytest.mark.slow
STEPS, BATCH = 50, 4
SECONDS = 120
"""In which processes must have started and come to their end, on a busy machine too."""
NEVER, ALWAYS = "1e9", "0"
SHAPES = {
    "llama": {"layers": 2},
    "grouped": {"layers": 2, "heads": 4, "kv_heads": 2, "d_model": 32},
    "qwen3 tied": {"qk_norm": True, "tied_embeddings": True},
}

Started = list[subprocess.Popen[str]]
Start = Callable[..., Started]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the processes of a sharded run as torchrun does; killed after the test."""
    started: Started = []

    def run(study: Study, spec: RunSpec, ranks: int, *options: str, nodes: int = 1) -> Started:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "proxy_trainer.sharded"]
        command += [str(study.layout.root), spec.run_id, *options]
        own = []
        for rank in range(ranks):
            place = {
                "RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank * nodes % ranks,
                "LOCAL_WORLD_SIZE": ranks // nodes, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "TORCH_GLOO_LAZY_INIT": 0,
            }  # fmt: skip
            own.append(subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True,
                env={**os.environ, **{k: str(v) for k, v in place.items()}},
            ))  # fmt: skip
        started.extend(own)
        return own

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(processes: Started) -> list[int]:
    """Exit codes; what the processes said is in the test's output."""
    for process in processes:
        _, said = process.communicate(timeout=SECONDS)
        print(said)
    return [p.returncode for p in processes]


def planned(study: Study, **changes: object) -> RunSpec:
    """One run of 50 steps, its specification written."""
    template = study.propose().specs[0]
    short = replace(
        template.plan, steps=STEPS, batch=BATCH, eval_steps=(STEPS // 2, STEPS), lr=3e-3
    )
    plan = replace(short, **changes.pop("plan", {}))  # type: ignore[arg-type]
    spec = replace(template, **{"plan": plan, **changes})  # type: ignore[arg-type]
    study.add_run(spec)
    return spec


def shaped(name: str) -> Any:
    sizes = {"size": "50k", "d_model": 16, "layers": 1, "heads": 2, "context": 32, **SHAPES[name]}
    return shape(ModelConfig.model_validate(sizes))


def logged(run: RunLayout) -> dict[tuple[str, int, str], float]:
    """Loss, gradient norm and metric of every step, later events replacing earlier ones."""
    found = {}
    for event in read_events(run.events):
        for key in ("loss", "grad_norm", "lr", "value"):
            if key in event:
                found[event["type"], event["step"], event.get("name", key)] = event[key]
    return found


def alone(study: Study, spec: RunSpec) -> dict[tuple[str, int, str], float]:
    """The run by one process as a member of an array; its folder is as new afterwards."""
    run = study.layout.run(spec.run_id)
    train(study.layout, [run], checkpoint_seconds=math.inf)
    figures = logged(run)
    assert len([k for k in figures if k[0] == "step"]) == 3 * STEPS
    for path in (run.events, run.done):
        path.unlink()
    for path, name in ((run.model, "expected"), (run.state, "expected-state")):
        if path.exists():
            path.rename(run.root / name)
    return figures


Figures = dict[tuple[str, int, str], float]


def same(ours: Figures, theirs: Figures) -> None:
    """Losses and bits per byte agree to 1e-5; norms, which are sums of many squares, to 1e-4."""
    for kind, tolerance in (("loss", 1e-5), ("bpb", 1e-5), ("grad_norm", 1e-4)):
        one, two = ({k: v for k, v in x.items() if k[2].startswith(kind)} for x in (ours, theirs))
        assert one
        assert one == pytest.approx(two, abs=tolerance, rel=0)


def wait_for_step(run: RunLayout, step: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if run.events.exists() and any(k[1] >= step for k in logged(run)):
            return
        time.sleep(0.01)
    raise AssertionError(f"did not come to step {step}")


@pytest.mark.parametrize("name", SHAPES)
def test_two_processes_train_as_one_does(study: Study, start: Start, name: str) -> None:
    """Losses, norms and bits per byte to 1e-5 over 50 steps in single precision."""
    spec = planned(study, model=shaped(name), keep_model=True)
    expected = alone(study, spec)
    run = study.layout.run(spec.run_id)
    assert ended(start(study, spec, 2, "--checkpoint-seconds", NEVER)) == [0, 0]
    figures = logged(run)
    same(figures, expected)
    first, last = (figures["step", s, "loss"] for s in (1, STEPS))
    assert last < first - 0.3, "nothing was learnt"
    result = json.loads(run.done.read_text())
    assert result["environment"]["processes"] == 2
    assert not run.checkpoints.exists() or not list(run.checkpoints.iterdir())
    close_weights(run)


def close_weights(run: RunLayout) -> None:
    """The model that a run has left is that which one process had."""
    ours, theirs = (load_file(run.root / p / "model.safetensors") for p in ("model", "expected"))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        # Adam takes the sign of a gradient that is all rounding as seriously as any other.
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-4)


def asked(run: RunLayout, folder: str) -> dict[str, dict[str, float]]:
    """Metrics of every result, by its file."""
    found = {p.name: json.loads(p.read_text()) for p in (run.root / folder).glob("*.json")}
    return {name: {m["name"]: m["value"] for m in r["metrics"]} for name, r in found.items()}


def test_two_processes_ask_tasks_as_one_does(study: Study, start: Start, tmp_path: Path) -> None:
    """At every evaluation point; and their checkpoint, whole again, is what its shards are."""
    from safetensors.torch import load_file

    rows = [
        {"question": f"{a} + {b} =", "choices": [f" {a + b}", f" {a * b + 17}"], "answer": b % 2}
        for a in range(2, 9)
        for b in (1, 4, 9)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = ChoiceTask(
        name="sums", files=("q.jsonl",), question="{question}", choice="{choice}"
    )
    task = MultipleChoice.read(described, tmp_path)
    task.save(study.layout.evals / task.fingerprint)
    own = {"keep_model": True, "tasks": (task.fingerprint,), "tasks_at": "every"}
    spec = planned(study, model=shaped("grouped"), **own)
    expected = alone(study, spec)
    run = study.layout.run(spec.run_id)
    run.evals.rename(run.root / "alone")
    processes = start(study, spec, 2, "--checkpoint-seconds", ALWAYS)
    wait_for_step(run, 10)
    for process in processes:
        process.kill()
    ended(processes)
    step, path = found(run.checkpoints)[0]
    sizes = {
        n: tuple(x.shape)
        for n, x in without_weights(spec.model, spec.vocab_size).named_parameters()
    }
    whole = Part(checkpoint.read(path).tensors, "model.")
    assert whole.keys() == sizes.keys()
    shards = [load_file(file) for file in sorted(path.glob("*.safetensors"))]
    assert len(shards) == 2
    for name, value in whole.items():
        assert value.shape == sizes[name]
        parts = [s[f"model.{name}"] for s in shards if f"model.{name}" in s]
        torch.testing.assert_close(value, torch.cat(parts), rtol=0, atol=0)
    tokenizer = tokenizers.load(study.layout.tokenizer)
    [there] = task.ask(checkpoints.load([run], [spec], step, tokenizer, 0))
    assert isinstance(there, Result)
    assert ended(start(study, spec, 2, "--checkpoint-seconds", NEVER)) == [0, 0]
    same(logged(run), expected)
    names = {f"{task.fingerprint}.json", f"{task.fingerprint}@{STEPS // 2}.json"}
    ours, theirs = asked(run, "evals"), asked(run, "alone")
    assert set(ours) == set(theirs) == names
    for name, metrics in theirs.items():
        assert ours[name] == pytest.approx(metrics, abs=1e-4)
    values = [there.metrics["sums/bpb"], *(x["sums/bpb"] for x in theirs.values())]
    assert len(set(values)) == 3, "the model has learned"
    done = json.loads(run.done.read_text())["metrics"]
    assert done["sums/bpb"] == ours[f"{task.fingerprint}.json"]["sums/bpb"]


def test_shards_of_uneven_size_recomputed_and_in_parts(study: Study, start: Start) -> None:
    """Three processes do not divide the parameters; each computes one sequence at a time."""
    spec = planned(study, model=shaped("grouped"), plan={"batch": 6, "document_mask": True})
    expected = alone(study, spec)
    options = ["--checkpoint-seconds", ALWAYS, "--rows", "1", "--recompute"]
    assert ended(start(study, spec, 3, *options)) == [0, 0, 0]
    same(logged(study.layout.run(spec.run_id)), expected)


def test_replicas_over_nodes(study: Study, start: Start) -> None:
    """They start from a run with its moments, are killed and resumed, and leave what one does."""
    before = planned(study, keep_model=True, keep_state=True)
    train(study.layout, [study.layout.run(before.run_id)], checkpoint_seconds=math.inf)
    spec = replace(before, start=Begin(run=before.run_id, optimiser=True), seed=before.seed + 1)
    study.add_run(spec)
    run = study.layout.run(spec.run_id)
    expected = alone(study, spec)
    processes = start(study, spec, 4, "--hybrid", "--checkpoint-seconds", ALWAYS, nodes=2)
    wait_for_step(run, 10)
    for process in processes:
        process.kill()
    ended(processes)
    assert not run.done.exists()
    begun = found(run.checkpoints)[0][0]
    assert ended(start(study, spec, 4, "--hybrid", nodes=2)) == [0] * 4
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert starts == [0, begun]
    same(logged(run), expected)
    assert json.loads(run.done.read_text())["environment"]["replicas"] == 2
    close_weights(run)
    ours, theirs = (Moments.load(p) for p in (run.state, run.root / "expected-state"))
    assert ours.step == theirs.step == 2 * STEPS
    assert ours.exp_avg_sq.keys() == theirs.exp_avg_sq.keys()
    for name, value in theirs.exp_avg.items():
        torch.testing.assert_close(ours.exp_avg[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_killed_and_resumed_it_comes_to_the_same(
    study: Study, start: Start, before: int, after: int
) -> None:
    """With other processes to 1e-5; with as many as before to the bit."""
    spec = planned(study, plan={"skip_sigma": 6.0})
    run = study.layout.run(spec.run_id)
    expected = alone(study, spec)
    assert ended(start(study, spec, before, "--checkpoint-seconds", NEVER)) == [0] * before
    whole = logged(run)
    for path in (run.events, run.done):
        path.unlink()
    processes = start(study, spec, before, "--checkpoint-seconds", ALWAYS)
    wait_for_step(run, 10)
    for process in processes:
        process.kill()
    ended(processes)
    assert not run.done.exists()
    begun = found(run.checkpoints)[0][0]
    assert ended(start(study, spec, after, "--checkpoint-seconds", NEVER)) == [0] * after
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert starts == [0, begun], "did not go on from its last checkpoint"
    same(logged(run), expected)
    if before == after:
        assert logged(run) == whole


def test_a_checkpoint_cut_short_gives_way_to_the_one_before(study: Study, start: Start) -> None:
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    expected = alone(study, spec)
    processes = start(study, spec, 2, "--checkpoint-seconds", ALWAYS)
    wait_for_step(run, 10)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert ended(processes) == [75, 75]
    (_, last), (step, _) = found(run.checkpoints)
    shard = sorted(last.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-8])
    shutil.copytree(last, run.checkpoints / ".step-000000001.part")
    assert ended(start(study, spec, 2)) == [0, 0]
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert starts == [0, step]
    same(logged(run), expected)
    assert not list(run.checkpoints.iterdir())


def test_one_process_asked_to_end_ends_all_with_a_checkpoint(study: Study, start: Start) -> None:
    spec = planned(study, plan={"steps": 5000, "eval_steps": (5000,)})
    run = study.layout.run(spec.run_id)
    processes = start(study, spec, 2, "--checkpoint-seconds", NEVER)
    wait_for_step(run, 100)
    processes[1].send_signal(signal.SIGUSR2)
    assert ended(processes) == [75, 75]
    assert len(found(run.checkpoints)) == 1


def test_a_process_that_dies_ends_the_others(study: Study, start: Start) -> None:
    spec = planned(study, plan={"steps": 5000, "eval_steps": (5000,)})
    run = study.layout.run(spec.run_id)
    processes = start(study, spec, 2)
    wait_for_step(run, 100)
    processes[1].kill()
    assert ended(processes) == [1, -signal.SIGKILL]
    assert not run.done.exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_run(study: Study, start: Start) -> None:
    """It is written in the background; all processes are told."""
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    run.checkpoints.mkdir(parents=True)
    processes = start(study, spec, 2, "--checkpoint-seconds", ALWAYS)
    wait_for_step(run, 1)
    (run.checkpoints / f".step-{STEPS - 5:09d}.part").write_text("in the way")
    said = [p.communicate(timeout=SECONDS)[1] for p in processes]
    assert [p.returncode for p in processes] == [2, 2]
    assert f"{run.checkpoints}: no file can be written there" in said[0]
    assert not run.done.exists()


def test_a_batch_that_cannot_be_divided_is_refused(study: Study, start: Start) -> None:
    spec = planned(study)
    processes = start(study, spec, 3)
    said = [p.communicate(timeout=SECONDS)[1] for p in processes]
    assert [p.returncode for p in processes] == [2] * 3
    assert "4 sequences cannot be divided among 3 processes; start 1, 2, 4, or" in said[0]
    assert not study.layout.run(spec.run_id).events.exists()


def test_a_run_that_diverges_is_frozen_and_reported(study: Study, start: Start) -> None:
    wild = {"lr": 1e12, "clip": 1e9, "warmup_share": 0.0}
    spec = planned(study, plan=wild)
    run = study.layout.run(spec.run_id)
    assert ended(start(study, spec, 2)) == [4, 4]
    assert re.fullmatch(
        r"loss or gradient is no number at step \d+ of 50",
        json.loads(run.failed.read_text())["reason"],
    )
    assert not run.done.exists()


def test_a_run_that_others_train_is_left_to_them(study: Study, start: Start) -> None:
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    claimant = Claimant(study.layout.runs, "other", 120)
    claim = claimant.take(run)
    assert claim is not None
    assert ended(start(study, spec, 2)) == [3, 3]
    assert not run.events.exists()
    claim.release("asked to end")
    assert ended(start(study, spec, 2)) == [0, 0]
    events = run.events.read_bytes()
    assert ended(start(study, spec, 2)) == [0, 0]
    assert run.events.read_bytes() == events, "trained again"
    assert [e.reason for e in claims.log(run.claims) if e.kind == "released"] == [
        "asked to end",
        "done",
    ]


def test_torchrun_starts_it_and_hands_on_that_it_is_to_end(study: Study) -> None:
    spec = planned(study, plan={"steps": 1000, "eval_steps": (1000,)})
    run = study.layout.run(spec.run_id)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "proxy_trainer.sharded"]
    command += [str(study.layout.root), spec.run_id]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(run, 100)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert len(found(run.checkpoints)) == 1
    assert not run.done.exists()
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    assert run.done.exists()
    [_, begun] = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert begun >= 100


def test_without_torchrun_it_says_how_to_start_it(study: Study) -> None:
    command = [sys.executable, "-m", "proxy_trainer.sharded", str(study.layout.root), "x"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 2
    assert "use `torchrun --nproc-per-node N -m proxy_trainer.sharded" in result.stderr
