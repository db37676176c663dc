"""A sharded model in one process: the same steps as a member of an array, nothing to wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from proxy_trainer import checkpoint
from proxy_trainer.checkpoint import Progress
from proxy_trainer.data.batch import Batch
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.launch import gang_node
from proxy_trainer.launch.gang import Gang
from proxy_trainer.members import Members
from proxy_trainer.models import hf
from proxy_trainer.models.folder import load_folder
from proxy_trainer.models.gpt import GPT
from proxy_trainer.optim import learning_rate
from proxy_trainer.retention import USUAL, Retention, found
from proxy_trainer.sharded.__main__ import _arguments
from proxy_trainer.sharded.checkpoint import Checkpoints
from proxy_trainer.sharded.ranks import Ranks, join
from proxy_trainer.sharded.trainee import Sharded
from regmix.config import ModelConfig, TrainConfig
from regmix.errors import UserError
from regmix.sizes import ModelShape, TrainPlan, plan, shape
from regmix.study import Study

VOCAB, CONTEXT, BATCH, STEPS = 200, 32, 4, 50
SHAPES = {
    "llama": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "qwen3 tied": {"qk_norm": True, "tied_embeddings": True},
}


def small(name: str = "llama") -> ModelShape:
    return shape(ModelConfig.model_validate(
        {"size": "50k", "d_model": 32, "layers": 2, "heads": 2, "context": CONTEXT, **SHAPES[name]}
    ))  # fmt: skip


def planned(**settings: object) -> TrainPlan:
    tokens = BATCH * CONTEXT
    return plan(TrainConfig.model_validate(
        {"tokens": STEPS * tokens, "batch_tokens": tokens, "lr": 3e-3, **settings}
    ), small())  # fmt: skip


def batches() -> torch.Tensor:
    """Blocks with a pattern to learn, ``(STEPS, 1, BATCH, CONTEXT + 1)``."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(VOCAB, (STEPS, 1, BATCH, 1), generator=generator)
    stride = torch.randint(1, 4, (STEPS, 1, BATCH, 1), generator=generator)
    return (first + stride * torch.arange(CONTEXT + 1)) % VOCAB


def losses(trainee: Sharded | Members, made: TrainPlan, steps: range = range(STEPS)) -> list[float]:
    data = batches()
    return [trainee.step(t, Batch(data[t]), [learning_rate(made, t)]).loss_K.item() for t in steps]


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_is_that_of_a_member_of_an_array(ranks: Ranks, name: str) -> None:
    made = replace(planned(z_loss=1e-3), document_mask=True)
    dims = small(name)
    member = Members(dims, VOCAB, made, [4], device=ranks.device, separator=7)
    sharded = Sharded(dims, VOCAB, made, 4, ranks, separator=7, recompute=True, rows=3)
    expected = losses(member, made)
    assert expected[-1] < expected[0] - 0.5, "nothing was learnt"
    assert losses(sharded, made) == pytest.approx(expected, abs=1e-5, rel=0)
    ids_BT, keep_BT = batches()[0, 0, :, :-1], torch.ones(BATCH, CONTEXT, dtype=torch.bool)
    keep_BT[2, 5:] = False
    text = (ids_BT, keep_BT, batches()[0, 0, :, 1:][keep_BT])
    ours, theirs = sharded.array.nats(*text), member.array.nats(*text)
    assert ours.shape == (1, BATCH)
    assert ours.tolist() == [pytest.approx(theirs[0].tolist(), rel=1e-5)]


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_at_first_those_that_the_seed_gives_a_single_model(
    ranks: Ranks, name: str
) -> None:
    single = GPT(small(name), VOCAB)
    single.initialise(3)
    sharded = Sharded(small(name), VOCAB, planned(), 3, ranks, separator=0)
    weights = sharded.array.member(0)
    assert weights.keys() == single.state_dict().keys()
    for key, value in single.state_dict().items():
        assert torch.equal(weights[key], value)


@pytest.mark.parametrize("name", SHAPES)
def test_half_precision_trains_like_single_precision(ranks: Ranks, name: str) -> None:
    """What a GPU does, on the CPU: shards and sums stay in single precision."""
    made = replace(planned(), document_mask=True)
    single, half = (
        Sharded(small(name), VOCAB, made, 1, ranks, separator=7, recompute=h, half_precision=h)
        for h in (False, True)
    )
    assert losses(half, made) == pytest.approx(losses(single, made), rel=2e-3)
    assert all(t.dtype == torch.float32 for t in half.tensors().values())


def test_a_whole_model_is_measured_as_its_processes_measured_it(
    ranks: Ranks, study: Study, tmp_path: Path
) -> None:
    """In half precision too: other figures than in single precision, the same in both."""
    found = []
    for half in (False, True):
        sharded = Sharded(small(), 512, planned(), 1, ranks, separator=0, half_precision=half)
        hf.save(sharded.array.member(0), small(), tmp_path, study.layout.tokenizer, 0)
        whole = WholeModel(load_folder(tmp_path, CONTEXT)[1], half_precision=half)
        ids_BT, keep_BT = batches()[0, 0, :, :-1], torch.ones(BATCH, CONTEXT, dtype=torch.bool)
        text = (ids_BT, keep_BT, batches()[0, 0, :, 1:].flatten())
        ours, theirs = whole.nats(*text), sharded.array.nats(*text)
        found.append((ours.double(), theirs))
    (single, same), (rough, measured) = found
    torch.testing.assert_close(single, same, rtol=1e-6, atol=0)
    torch.testing.assert_close(rough, measured, rtol=1e-6, atol=0)
    assert not torch.allclose(single, measured, rtol=3e-6, atol=0)


def test_the_command_says_what_a_gang_was_told(tmp_path: Path) -> None:
    made = Gang(
        study=tmp_path, run_id="r", nodes=1, processes=2, hybrid=False, recompute=True, rows=3,
        compiled=False, checkpoint_seconds=5.0, keep_last=4, keep_every=500, timeout_seconds=7200.0,
    )  # fmt: skip
    _, _, *words = gang_node._processes(made, 60.0)
    asked = _arguments(words)
    assert (asked.keep_last, asked.keep_every, asked.timeout_seconds) == (4, 500, 7200.0)
    assert (asked.checkpoint_seconds, asked.rows, asked.recompute) == (5.0, 3, True)


def test_a_checkpoint_is_a_copy_of_the_moment_it_was_asked_for(
    ranks: Ranks, tmp_path: Path
) -> None:
    """Training goes on while it is written; what is to stay does; what was unfinished goes."""
    made = replace(planned(), skip_sigma=6.0)
    trainee = Sharded(small(), VOCAB, made, 1, ranks, separator=0)
    checkpoints = Checkpoints(tmp_path, ranks, Retention(last=1, every=8))
    losses(trainee, made, range(10))
    for step in (8, 9, 10):
        checkpoints.save(trainee.tensors(), Progress(step, 1.5))
    rest = losses(trainee, made, range(10, 20))
    checkpoints.settle()
    assert [step for step, _ in found(tmp_path)] == [10, 8]
    (tmp_path / ".step-000000011.part").mkdir()
    newest = Checkpoints(tmp_path, ranks).newest()
    assert newest == (Progress(10, 1.5), found(tmp_path)[0][1])
    other = Sharded(small(), VOCAB, made, None, ranks, separator=0)
    tensors = other.tensors()
    checkpoints.load(tensors, newest)
    other.restore(tensors)
    assert losses(other, made, range(10, 20)) == rest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000008", "step-000000010"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_run_goes_on_from_what_the_other_way_of_training_it_has_left(
    ranks: Ranks, tmp_path: Path, name: str
) -> None:
    """From a file of an array's member to shards, and from shards to a member."""
    made = replace(planned(), skip_sigma=6.0)
    dims = small(name)
    member = Members(dims, VOCAB, made, [4], device=ranks.device, separator=0)
    losses(member, made, range(10))
    checkpoint.save(tmp_path / "file", member.checkpoint(0, 10, 1.5), USUAL)
    expected = losses(member, made, range(10, 30))
    sharded = Sharded(dims, VOCAB, made, None, ranks, separator=0)
    checkpoints = Checkpoints(tmp_path / "file", ranks)
    stands = checkpoints.newest()
    assert stands is not None
    assert stands.progress == Progress(10, 1.5)
    tensors = sharded.tensors()
    checkpoints.load(tensors, stands)
    sharded.restore(tensors)
    assert losses(sharded, made, range(10, 20)) == pytest.approx(expected[:10], abs=1e-5, rel=0)

    shards = Checkpoints(tmp_path / "shards", ranks)
    shards.save(sharded.tensors(), Progress(20, 2.5))
    shards.settle()
    found = checkpoint.load(tmp_path / "shards")
    assert found is not None
    assert found.progress == Progress(20, 2.5)
    other = Members(dims, VOCAB, made, [0], device=ranks.device, separator=0)
    other.load(0, found)
    assert losses(other, made, range(20, 30)) == pytest.approx(expected[10:], abs=1e-5, rel=0)
    assert other.checkpoint(0, 0, 0.0).tensors.keys() == found.tensors.keys()


def test_a_missing_shard_or_a_changed_note_gives_way_to_the_one_before(
    ranks: Ranks, tmp_path: Path
) -> None:
    trainee = Sharded(small(), VOCAB, planned(), 1, ranks, separator=0)
    checkpoints = Checkpoints(tmp_path, ranks)
    for step in (1, 2):
        checkpoints.save(trainee.tensors(), Progress(step, 0.0))
    checkpoints.settle()
    (_, last), (_, before) = found(tmp_path)
    next(last.glob("*.safetensors")).unlink()
    assert checkpoints.newest() == (Progress(1, 0.0), before)
    assert found(tmp_path) == [(1, before)], "what cannot be read would stay as the newest"
    (before / "progress.json").write_text('{"step": ')
    assert checkpoints.newest() is None


def test_a_batch_is_divided_among_processes(ranks: Ranks) -> None:
    three = replace(ranks, rank=1, world=3)
    assert three.rows(6) == slice(2, 4)
    with pytest.raises(UserError, match=r"8 sequences cannot .* 3 processes; start 1, 2, 4, 8, or"):
        three.rows(8)


def test_replicas_need_more_than_one_node(ranks: Ranks) -> None:
    with pytest.raises(UserError, match="--hybrid replicates over nodes"):
        join(hybrid=True, timeout_seconds=60)
