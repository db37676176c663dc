"""Steps of a sharded model, by one process and by two real ones, against formulas and an array.

Started as a program, this file is one of the processes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from proxy_trainer.data.batch import Batch
from proxy_trainer.members import Members
from proxy_trainer.sharded.ranks import Ranks, join
from proxy_trainer.sharded.trainee import Sharded
from regmix.config import ModelConfig, TrainConfig
from regmix.errors import RegmixError
from regmix.sizes import TrainPlan, plan, shape

pytestmark = pytest.mark.slow
VOCAB, CONTEXT, BATCH = 50, 16, 4
SHAPE = shape(ModelConfig(size="50k", d_model=16, layers=1, heads=2, context=CONTEXT))
CALM = 80
"""Steps before the noise: what a spike is, is known after 64."""
LIMIT = 2.0
"""Seconds that a silent process is awaited for, where that is tried."""


def planned(**settings: object) -> TrainPlan:
    tokens = {"tokens": 100 * BATCH * CONTEXT, "batch_tokens": BATCH * CONTEXT, "lr": 1e-2}
    return plan(TrainConfig.model_validate({**tokens, **settings}), SHAPE)


def noisy(trainee: Sharded | Members, rows: slice = slice(None)) -> dict[str, Any]:
    """A pattern, one batch of noise, the pattern again; what is said and what is left out."""
    pattern = (torch.arange(CONTEXT + 1) * 3).expand(1, BATCH, -1)
    noise = torch.randint(VOCAB, pattern.shape, generator=torch.Generator().manual_seed(0))
    losses, skipped = [], []
    for step in range(CALM + 5):
        tokens = noise if step == CALM else (pattern + step % 5) % VOCAB
        found = trainee.step(step, Batch(tokens[:, rows]), [1e-2])
        losses.append(found.loss_K.item())
        skipped.append(int(trainee.skipped_K[0]))
    return {"losses": losses, "skipped": skipped}


def sparse() -> Batch:
    """Tokens of which few count, and far more of them in the last blocks than in the first."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB, (1, BATCH, CONTEXT + 1), generator=generator)
    share_B1 = torch.tensor([0.05, 0.1, 0.5, 0.9])[:, None]
    counts = (torch.rand((BATCH, CONTEXT), generator=generator) < share_B1).float()
    counts[0, 3] = 1
    return Batch(tokens, counts[None])


def counted(trainee: Sharded | Members, rows: slice = slice(None)) -> dict[str, Any]:
    """The first step's loss and norm, and the losses of some that follow."""
    whole = sparse()
    assert whole.counts is not None
    own = Batch(whole.tokens[:, rows], whole.counts[:, rows])
    found = [trainee.step(step, own, [1e-2]) for step in range(4)]
    return {"losses": [f.loss_K.item() for f in found], "norms": [f.norm_K.item() for f in found]}


def formula() -> tuple[float, float]:
    """Loss and gradient norm of the first step: the mean over all tokens that count."""
    made = Members(SHAPE, VOCAB, planned(), [3], device=torch.device("cpu"), separator=0)
    batch = sparse()
    assert batch.counts is not None
    logits = made.array.hidden(batch.tokens[..., :-1]) @ made.array.unembed_KDV
    nats = F.cross_entropy(logits[0], batch.tokens[0, :, 1:].flatten(), reduction="none")
    loss = (nats * batch.counts.flatten()).sum() / batch.counts.sum()
    loss.backward()
    squares = [p.grad.square().sum() for p in made.array.parameters() if p.grad is not None]
    return loss.item(), torch.stack(squares).sum().sqrt().item()


def alone() -> tuple[Members, Members]:
    made = replace(planned(clip=1e9), skip_sigma=6.0)
    cpu = torch.device("cpu")
    return (
        Members(SHAPE, VOCAB, made, [0], device=cpu, separator=0),
        Members(SHAPE, VOCAB, planned(), [3], device=cpu, separator=0),
    )


def sharded(ranks: Ranks) -> tuple[Sharded, Sharded]:
    made = replace(planned(clip=1e9), skip_sigma=6.0)
    return (
        Sharded(SHAPE, VOCAB, made, 0, ranks, separator=0),
        Sharded(SHAPE, VOCAB, planned(), 3, ranks, separator=0, rows=1),
    )


def disks(ranks: Ranks) -> dict[str, Any]:
    """What becomes of a process whose disk takes longer than a silent one is awaited."""
    limit = timedelta(seconds=LIMIT)
    ranks = replace(ranks, control=dist.new_group(backend="gloo", timeout=limit))
    began = time.monotonic()
    slow = ranks.together(lambda: time.sleep(2 * LIMIT * ranks.first) or "written")
    took = time.monotonic() - began

    def full() -> None:
        if ranks.first:
            raise RegmixError("no space left")

    try:
        ranks.together(full)
        told = ""
    except RegmixError as exc:
        told = str(exc)
    try:  # what happens without: the others are given up
        if ranks.first:
            time.sleep(2 * LIMIT)
        dist.barrier(ranks.control)
        silent = "awaited"
    except RuntimeError:
        silent = "given up"
    return {"slow": slow, "took": took, "told": told, "silent": silent}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, by rank."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        place = {
            "RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1,
        }  # fmt: skip
        command = [sys.executable, __file__, str(folder)]
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}}
        started.append(subprocess.Popen(command, env=environment))
    try:
        assert [process.wait(timeout=240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_a_spike_is_left_out_by_all_processes(ranks: Ranks, two: list[dict[str, Any]]) -> None:
    """Of the noise one process has half; the step is left out as by an array's member."""
    expected = noisy(alone()[0])
    assert expected["skipped"] == [0] * CALM + [1] * 5
    assert expected["losses"][CALM] > expected["losses"][CALM + 1] + 1, "it was learnt from"
    for found in (noisy(sharded(ranks)[0]), *(own["noisy"] for own in two)):
        assert found["skipped"] == expected["skipped"]
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5, rel=0)


def test_the_loss_is_the_mean_over_what_counts_in_all_processes(
    ranks: Ranks, two: list[dict[str, Any]]
) -> None:
    """Processes with few and with many such tokens, a sequence at a time."""
    loss, norm = formula()
    expected = counted(alone()[1])
    assert expected["losses"][0] == pytest.approx(loss, abs=1e-6)
    for found in (counted(sharded(ranks)[1]), *(own["counted"] for own in two)):
        assert found["losses"][0] == pytest.approx(loss, abs=1e-6)
        assert found["norms"][0] == pytest.approx(norm, rel=1e-5)
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5, rel=0)


def test_a_slow_disk_is_waited_for_and_a_full_one_ends_all(two: list[dict[str, Any]]) -> None:
    assert [own["disks"]["slow"] for own in two] == ["written"] * 2
    assert all(own["disks"]["took"] > 2 * LIMIT - 0.5 for own in two), "did not wait"
    assert [own["disks"]["told"] for own in two] == [
        "no space left",
        "another process could not read or write what it had to",
    ]
    assert two[1]["disks"]["silent"] == "given up", "this would not tell"


def main() -> None:
    torch.set_num_threads(1)
    ranks = join(hybrid=False, timeout_seconds=120)
    spiky, sparse_ = sharded(ranks)
    rows = ranks.rows(BATCH)
    found = {"noisy": noisy(spiky, rows), "counted": counted(sparse_, rows)}
    found["disks"] = disks(ranks)
    Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # the talk that was given up cannot be closed in good order


if __name__ == "__main__":
    main()
