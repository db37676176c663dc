"""A run that breaks stops, and what it was before is kept, whole and to the bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from proxy_trainer import checkpoint, loop, members, retention, starts
from proxy_trainer.execution import Stepped
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.sharded.run import Settings, train_sharded
from proxy_trainer.sharded.trainee import Sharded
from proxy_trainer.train import train
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.runs import RunSpec
from regmix.study import Study

NEVER = 1e9
STEPS, BROKEN = 100, 87
"""More steps than the spike guard must have seen before it judges."""
Poison = Callable[[int], None]


def planned(study: Study, role: str = "target") -> RunSpec:
    first = study.propose().specs[0]
    plan = replace(first.plan, steps=STEPS, eval_steps=(STEPS,), skip_sigma=6.0)
    spec = replace(first, role=role, plan=plan, keep_model=True)
    study.add_run(spec)
    return spec


def go(study: Study, *specs: RunSpec, **options: Any) -> loop.Outcome:
    runs = [study.layout.run(s.run_id) for s in specs]
    return train(study.layout, runs, **{"checkpoint_seconds": NEVER, **options})


def left(run: RunLayout) -> checkpoint.Checkpoint:
    found = checkpoint.load(run.checkpoints)
    assert found is not None
    return found


def same(one: checkpoint.Checkpoint, two: checkpoint.Checkpoint) -> None:
    assert one.progress.step == two.progress.step
    assert one.tensors.keys() == two.tensors.keys()
    for name, value in two.tensors.items():
        assert torch.equal(one.tensors[name], value), name


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Makes the loss of one step no number, from the next training on; 0: of none."""
    real = members.cross_entropy
    at = [0, 0]

    def poisoned(*args: Any) -> Any:
        at[1] += 1
        loss_K, nats_KN = real(*args)
        return loss_K * (torch.nan if at[1] == at[0] else 1.0), nats_KN

    def install(step: int) -> None:
        at[:] = [step, 0]

    monkeypatch.setattr(members, "cross_entropy", poisoned)
    return install


@pytest.mark.parametrize("points", [1000, 10])
def test_the_checkpoint_is_that_of_the_step_before_however_late_it_is_noticed(
    copy_study: Callable[..., Study], poison: Poison, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    monkeypatch.setattr(loop, "WATCHED_POINTS", points)
    whole, broken = copy_study("whole"), copy_study("broken")
    spec = planned(whole)
    planned(broken)
    asked = iter(range(1, STEPS))
    go(whole, spec, keep_going=lambda: next(asked) < BROKEN - 1)
    expected = left(whole.layout.run(spec.run_id))
    assert expected.progress.step == BROKEN - 1

    poison(BROKEN)
    outcome = go(broken, spec)
    run = broken.layout.run(spec.run_id)
    same(left(run), expected)
    assert outcome.diverged[spec.run_id] == (
        f"loss or gradient is no number at step {BROKEN} of {STEPS}; the checkpoint of step "
        f"{BROKEN - 1}, from before it, is kept: the same command goes on from there, to the same "
        "end unless a device was at fault; to go on otherwise, lower train.lr (now 0.005) in a "
        f"stage that starts from its model, {run.before}"
    )
    assert not run.done.exists()
    noticed = BROKEN if points == 1000 else 90
    assert max(e["step"] for e in read_events(run.events) if e["type"] == "step") < noticed

    for name, value in AutoModelForCausalLM.from_pretrained(run.before).state_dict().items():
        assert torch.equal(value, expected.tensors[f"model.{name}"])
    _, theirs = starts.take_in(broken.layout, run.before, spec.model.context)
    assert theirs.shape == spec.model, "no stage could start from it"


def test_where_a_device_was_at_fault_it_goes_on_to_what_it_would_have_come_to(
    copy_study: Callable[..., Study], poison: Poison
) -> None:
    whole, broken = copy_study("whole"), copy_study("broken")
    spec = planned(whole)
    planned(broken)
    go(whole, spec)
    poison(BROKEN)
    assert go(broken, spec).diverged
    poison(0)
    assert go(broken, spec).done == (spec.run_id,)
    runs = [s.layout.run(spec.run_id) for s in (whole, broken)]
    starts = [e["step"] for e in read_events(runs[1].events) if e["type"] == "start"]
    assert starts == [0, BROKEN - 1]
    weights, theirs = (load_file(run.model / "model.safetensors") for run in runs)
    assert all(torch.equal(weights[name], theirs[name]) for name in theirs)
    assert not runs[1].before.exists()
    assert not list(runs[1].checkpoints.iterdir())


def test_what_is_saved_while_it_is_broken_replaces_nothing(
    study: Study, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed at step 90, but due to be saved after every step."""
    monkeypatch.setattr(loop, "WATCHED_POINTS", 10)
    spec = planned(study)
    poison(BROKEN)
    go(study, spec, checkpoint_seconds=0.0)
    run = study.layout.run(spec.run_id)
    assert [step for step, _ in retention.found(run.checkpoints)] == [BROKEN - 1, BROKEN - 2]


def test_weights_that_are_no_numbers_are_not_saved(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a device that errs leaves them between two steps, and a checkpoint is due right then."""
    made: list[members.Members] = []
    real = members.Members.step

    def step(self: members.Members, *args: Any) -> Any:
        made.append(self)
        return real(self, *args)

    def err(at: int, _: int) -> None:
        if at == BROKEN:
            with torch.no_grad():
                made[-1].array.norm[0, 0, 3] = torch.nan

    monkeypatch.setattr(members.Members, "step", step)
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    outcome = go(study, spec, on_step=err, checkpoint_seconds=0.0)
    assert outcome.diverged[spec.run_id].startswith(
        f"weights are no numbers after step {BROKEN} of {STEPS}; the checkpoint of step "
        f"{BROKEN - 1}, from before it, is kept: "
    )
    assert retention.found(run.checkpoints)[0][0] == BROKEN - 1
    assert all(t.isfinite().all() for t in left(run).tensors.values())
    assert not run.before.exists()


def test_members_of_a_swarm_are_recorded_and_nothing_more(
    study: Study, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = planned(study, role="swarm")
    poison(BROKEN)
    outcome = go(study, spec)
    run = study.layout.run(spec.run_id)
    assert outcome.diverged[spec.run_id] == (
        f"loss or gradient is no number at step {BROKEN} of {STEPS}"
    )
    assert not run.checkpoints.exists()
    assert not run.before.exists()


def test_a_proxy_stopped_before_it_is_noticed_does_not_go_on_as_if_nothing_were(
    study: Study, poison: Poison
) -> None:
    """Broken at 87, told to end at 87; log points are at 86 and 88."""
    spec = planned(study, role="swarm")
    poison(BROKEN)
    asked = iter(range(1, STEPS))
    outcome = go(study, spec, keep_going=lambda: next(asked) < BROKEN)
    assert outcome.stopped == ()
    assert list(outcome.diverged) == [spec.run_id]
    assert not study.layout.run(spec.run_id).checkpoints.exists()


def test_the_first_step_has_nothing_before_it(study: Study, poison: Poison) -> None:
    spec = planned(study)
    poison(1)
    outcome = go(study, spec)
    assert outcome.diverged[spec.run_id] == (
        f"loss or gradient is no number at step 1 of {STEPS}; there is no checkpoint from before "
        "it: lower train.lr (now 0.005)"
    )
    assert not study.layout.run(spec.run_id).checkpoints.exists()


def test_without_skipping_it_is_offered(study: Study, poison: Poison) -> None:
    spec = planned(study)
    spec = replace(spec, plan=replace(spec.plan, skip_sigma=0.0))
    study.add_run(spec)
    poison(5)
    why = go(study, spec).diverged[spec.run_id]
    assert "lower train.lr (now 0.005) or leave out spikes (train.skip_sigma: 6)" in why


def test_a_sharded_run_keeps_its_last_sound_step_too(
    copy_study: Callable[..., Study], ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = copy_study("whole"), copy_study("broken")
    spec = planned(whole)
    planned(broken)
    asked = iter(range(1, STEPS))
    train_sharded(
        whole.layout, whole.layout.run(spec.run_id), ranks, Settings(NEVER),
        keep_going=lambda: next(asked) < BROKEN - 1,
    )  # fmt: skip
    real, at = Sharded._gradients, [0]

    def poisoned(self: Sharded, *args: Any) -> Stepped:
        at[0] += 1
        found = real(self, *args)
        return found._replace(loss_K=found.loss_K * (torch.nan if at[0] == BROKEN else 1.0))

    monkeypatch.setattr(Sharded, "_gradients", poisoned)
    run = broken.layout.run(spec.run_id)
    outcome = train_sharded(broken.layout, run, ranks, Settings(NEVER))
    assert re.search(
        f"step {BROKEN} of {STEPS}; the checkpoint of step {BROKEN - 1}",
        outcome.diverged[spec.run_id],
    )
    (ours,) = retention.found(run.checkpoints)
    (theirs,) = retention.found(whole.layout.run(spec.run_id).checkpoints)
    assert ours[0] == theirs[0] == BROKEN - 1
    for path in theirs[1].glob("*.safetensors"):
        expected, found = load_file(path), load_file(ours[1] / path.name)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    assert AutoModelForCausalLM.from_pretrained(run.before)
