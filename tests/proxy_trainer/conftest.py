"""A small real study: three domains of generated text, built and proposed once a session."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml

from proxy_trainer import steps
from proxy_trainer.data import build
from proxy_trainer.launch import registry
from proxy_trainer.launch.running import Outcome
from proxy_trainer.sharded.ranks import Ranks, join
from regmix import claims
from regmix.layout import RunLayout
from regmix.study import Study
from regmix.testing.launchers import until

CONSONANTS, VOWELS = "bcdfghklmnprstvz", "aeiou"


def _prose(rng: random.Random) -> str:
    def word() -> str:
        return "".join(
            rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 4))
        )

    return ". ".join(" ".join(word() for _ in range(8)).capitalize() for _ in range(4)) + "."


def _sums(rng: random.Random) -> str:
    pairs = [(rng.randint(0, 99), rng.randint(0, 99)) for _ in range(12)]
    return "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs)


def _code(rng: random.Random) -> str:
    names = [rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(3)]
    return "\n".join(
        f"def {name}_{rng.randint(0, 9)}(x):\n    return x {rng.choice('+-*')} {rng.randint(0, 99)}"
        for name in names
    )


DOMAINS: dict[str, Callable[[random.Random], str]] = {
    "prose": _prose,
    "sums": _sums,
    "code": _code,
}

STUDY = """\
name: small
domains:
  - {name: prose, train: text/prose.jsonl, valid_share: 0.1}
  - {name: sums, train: text/sums.jsonl, valid_share: 0.1}
  - {name: code, train: text/code.jsonl, valid_share: 0.1}
data: {tokenizer: {vocab_size: 512}}
proxy:
  model: {size: 50k, d_model: 16, layers: 1, heads: 2, context: 32}
  train: {tokens: %(tokens)d, batch_tokens: 128, lr: 0.005, eval_bytes: 2000, eval_points: 2}
swarm: {runs: 4, replicates: 2}
launch: {workers: 2, checkpoint_seconds: 0.05}
"""
TOKENS = 128 * 30


def write_texts(folder: Path, documents: int = 240) -> None:
    """One JSON Lines file a domain; the same text every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in DOMAINS.items():
        rng = random.Random(name)
        lines = [json.dumps({"text": make(rng)}) for _ in range(documents)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_study(root: Path, tokens: int = TOKENS) -> Study:
    """The texts and study.yaml; nothing built."""
    write_texts(root / "text")
    (root / "study.yaml").write_text(STUDY % {"tokens": tokens})
    return Study.open(root)


TASKS = """\
tasks:
  - {name: sums, files: [questions.jsonl], question: "{question}"}
"""


@pytest.fixture(scope="session")
def write_task() -> Callable[..., Path]:
    """Writes a task of ``count`` sums into a folder; gives the file that describes it."""

    def write(root: Path, count: int = 24) -> Path:
        rows = [
            {"question": f"{a} + {b} =", "choices": [str(a + b), str(a + b + 7)], "answer": 0}
            for a, b in ((2 + i // 40, 1 + i % 40) for i in range(count))
        ]
        (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "tasks.yaml").write_text(TASKS)
        return root / "tasks.yaml"

    return write


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As workers train: one thread, so that figures are the same to the bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """A group of this process alone."""
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
        for name, value in place.items():
            patch.setenv(name, str(value))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(free.getsockname()[1]))
        free.close()
        yield join(hybrid=False, timeout_seconds=60)
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def built_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study with its data built; not to be written to."""
    study = write_study(tmp_path_factory.mktemp("small"))
    build.build(study.layout, study.config)
    return study.layout.root


@pytest.fixture
def new_study(tmp_path: Path) -> Callable[..., Study]:
    """Makes the small study, not built; ``tokens`` a run can be given."""

    def make(tokens: int = TOKENS) -> Study:
        return write_study(tmp_path / "study", tokens)

    return make


@pytest.fixture
def copy_study(built_root: Path, tmp_path: Path) -> Callable[..., Study]:
    """Makes a copy of the built study under a name, with ``tokens`` a run."""

    def make(name: str = "study", tokens: int = TOKENS) -> Study:
        root = tmp_path / name
        shutil.copytree(built_root, root)
        (root / "study.yaml").write_text(STUDY % {"tokens": tokens})
        return Study.open(root)

    return make


@pytest.fixture
def study(copy_study: Callable[..., Study]) -> Study:
    """One copy of the built study."""
    return copy_study()


@pytest.fixture
def holder() -> Callable[[RunLayout], int | None]:
    """The living process that trains a run now."""

    def find(run: RunLayout) -> int | None:
        entry = claims.last(run.claims)
        if entry is None or entry.kind == "released" or entry.process.gone:
            return None
        return entry.process.pid

    return find


@pytest.fixture
def train_runs() -> Callable[..., Outcome]:
    """Trains runs of a study in processes of this machine, and waits for them."""

    def train(
        study: Study,
        ids: Sequence[str],
        on_poll: Callable[[], None] | None = None,
        **settings: object,
    ) -> Outcome:
        launch = study.config.launch.model_copy(
            update={"workers": 2, "checkpoint_seconds": 1e9, **settings}
        )
        return steps.train(study, ids, on_poll, launch)

    return train


@pytest.fixture
def regmix() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `regmix <arguments>` as a process; killed after the test if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "regmix.cli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None or process.returncode < 0:  # its workers too, should any be left
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


RECIPE = """\
kind: recipe
name: tiny
study: study
seed: 3
model: {size: 50k, d_model: 16, layers: 1, heads: 2, context: 64}
held_out: {sources: [{name: answers, files: [answers.jsonl]}]}
stages:
  - {name: pretrain, kind: pretrain, mixture: mix.yaml,
     train: {tokens: 5120, batch_tokens: 256, lr: 0.005, eval_bytes: 1000}}
  - {name: midtrain, kind: midtrain, train: {tokens: 2560, batch_tokens: 256, eval_bytes: 1000},
     mixture: mix.yaml}
  - {name: sft, kind: sft, train: {batch_tokens: 256, eval_bytes: 1000},
     sweep: {lr: [0.001, 0.003]},
     data: {sources: [{name: chat, files: [chat.jsonl], epochs: 2}]}}
"""


def _chat(rng: random.Random, least: int) -> str:
    a, b = rng.randint(0, 9), rng.randint(least, least + 9)
    turns = (("user", f"{a} + {b}?"), ("assistant", f"{a + b}."))
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})


@pytest.fixture
def recipe(study: Study) -> Callable[..., Path]:
    """Writes a recipe of three stages beside the study, with a part of its text replaced."""
    folder = study.layout.root.parent
    for name, count, least in (("chat", 40, 0), ("answers", 10, 10)):
        rng = random.Random(name)
        lines = [_chat(rng, least) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    def write(old: str = "", new: str = "", weights: Mapping[str, float] | None = None) -> Path:
        given = weights or {"prose": 0.5, "sums": 0.3, "code": 0.2}
        mixture = {"kind": "mixture", "name": "mix", "weights": dict(given)}
        (folder / "mix.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
        assert old in RECIPE
        path = folder / "recipe.yaml"
        path.write_text(RECIPE.replace(old, new, 1) if old else RECIPE)
        return path

    return write


SERVICES = Path(__file__).resolve().parents[1] / "services"


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm on this machine, see its script; its slurm.conf."""
    root = tmp_path_factory.mktemp("slurm")
    script = [sys.executable, str(SERVICES / "slurm.py")]
    started = subprocess.run([*script, "start", str(root)], capture_output=True, text=True)
    if started.returncode:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain(f"needs Slurm: {started.stderr.strip()}")
    yield root / "slurm.conf"
    subprocess.run([*script, "stop", str(root)], check=True)


@pytest.fixture
def skip_the_delay() -> Callable[[str], None]:
    """Waits until a job is requeued; Slurm then leaves it for two minutes, this for seconds."""

    def skip(job_id: str) -> None:
        state = ["squeue", "--noheader", "--format=%T|%r", f"--jobs={job_id}"]

        def requeued() -> bool:
            told = subprocess.run(state, capture_output=True, text=True).stdout
            return told.strip() == "PENDING|BeginTime"

        until(requeued)
        time.sleep(2)  # within the second a node takes the second turn for the first one
        subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], check=True)

    return skip


@pytest.fixture
def install_launcher(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, object], str]:
    """Makes a launcher known as an installed package does; returns where it says that it lives."""

    def install(name: str, launcher: object) -> str:
        module = ModuleType(f"{name}_plug_in")
        module.Launcher = launcher  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        where = f"{module.__name__}:Launcher"
        package = tmp_path_factory.mktemp("package") / f"{name}-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {where}\n")
        monkeypatch.syspath_prepend(package.parent)
        return where

    return install


@pytest.fixture(scope="session")
def ray_alone() -> dict[str, str]:
    """Environment of a Ray that talks to nobody but this machine."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's name for "nodes are on the loopback interface"; it replaces 127.0.0.1 otherwise.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray gives its workers niceness 15: beside other tests they would get next to no time.
        "RAY_worker_niceness": "0",
    }


@pytest.fixture(scope="module")
def ray_cluster(ray_alone: dict[str, str]) -> Iterator[Any]:
    """A Ray with a head that runs no workers, and a node of two cores and a device."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets lie in it
    os.environ.update(ray_alone, RAY_TMPDIR=folder)
    from ray.cluster_utils import Cluster

    loopback = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **loopback})
    found.add_node(num_cpus=2, num_gpus=1, node_ip_address="127.0.0.1")
    yield found
    import ray

    ray.shutdown()
    found.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
