"""Arrays on a GPU; skipped where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from proxy_trainer import arrays
from proxy_trainer.data.batch import Batch
from proxy_trainer.data.feed import MixtureFeed
from proxy_trainer.data.pool import TokenPool
from proxy_trainer.data.sampler import MixtureSampler, open_streams
from proxy_trainer.domain_losses import DomainLosses
from proxy_trainer.execution import WARM_UP, Execution
from proxy_trainer.members import Members
from proxy_trainer.train import native, train
from regmix.manifest import DataManifest
from regmix.records import read_events
from regmix.runs import RunSpec
from regmix.study import Study

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

STEPS = 12
NEVER = 1e9


def device() -> torch.device:
    return torch.device("cuda")


def made(spec: RunSpec, members: int, execution: Execution, rows: int | None = None) -> Members:
    return Members(
        native(spec), spec.vocab_size, spec.plan, range(members),
        device=device(), separator=0, execution=execution, rows=rows,
    )  # fmt: skip


def feed(study: Study, spec: RunSpec, members: int, *, resident: bool) -> MixtureFeed:
    manifest = DataManifest.load(study.layout.manifest)
    context = native(spec).context
    streams = open_streams(study.layout, manifest, context=context, seed=spec.seed)
    sampler = MixtureSampler(
        streams, spec.mixture, context=context, blocks=spec.plan.steps * spec.plan.batch,
        seed=spec.seed,
    )  # fmt: skip
    pool = TokenPool(streams, context=context, device=device(), resident=resident)
    return MixtureFeed([sampler] * members, pool, spec.plan.batch)


def losses(study: Study, spec: RunSpec, members: Members, rates: list[float]) -> np.ndarray:
    """Of every member at every step, ``(STEPS, K)``."""
    source = feed(study, spec, len(rates), resident=True)
    found = []
    for step in range(STEPS):
        batch, _ = source.batch(step, slice(None))
        found.append(members.step(step, batch, rates).loss_K.clone())
    return torch.stack(found).cpu().numpy()


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["compiled", "graph"])
def test_however_a_step_is_carried_out_it_is_the_same_step(
    study: Study, execution: Execution
) -> None:
    """To half precision's rounding; learning rates of their own; recorded once, changed later."""
    spec = study.propose().specs[0]
    rates = [3e-3, 1e-3, 5e-3]
    expected = losses(study, spec, made(spec, 3, "eager"), rates)
    assert (expected[-1] < expected[0] - 0.02).all(), "nothing was learnt"
    found = losses(study, spec, made(spec, 3, execution), rates)
    np.testing.assert_allclose(found, expected, rtol=5e-3)


@pytest.mark.slow
def test_in_parts_a_step_is_the_same_step(study: Study) -> None:
    spec = study.propose().specs[0]
    expected = losses(study, spec, made(spec, 2, "eager"), [3e-3] * 2)
    found = losses(study, spec, made(spec, 2, "eager", rows=1), [3e-3] * 2)
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_a_pool_on_the_device_gives_what_is_read_from_the_files(study: Study) -> None:
    spec = study.propose().specs[0]
    held, read = (feed(study, spec, 2, resident=r) for r in (True, False))
    for step in (0, 7, spec.plan.steps - 1):
        (one, which), (other, those) = (f.batch(step, slice(None)) for f in (held, read))
        assert one.tokens.device.type == "cuda"
        assert torch.equal(one.tokens, other.tokens)
        assert (which == those).all()


@pytest.mark.slow
@pytest.mark.parametrize("resident", [True, False])
def test_the_host_waits_for_nothing_in_the_loop(study: Study, *, resident: bool) -> None:
    spec = study.propose().specs[0]
    members = made(spec, 3, "graph")
    source = feed(study, spec, 3, resident=resident)
    sums = DomainLosses(source.names, 3, device())
    for step in range(WARM_UP + 1 + STEPS):
        batch, which = source.batch(step, slice(None))
        if step <= WARM_UP:  # libraries warm up, and the step is recorded
            sums.add(batch, which, members.step(step, batch, [1e-3] * 3).nats_KB)
            continue
        with no_waiting():
            batch, which = source.batch(step, slice(None))
            sums.add(batch, which, members.step(step, batch, [1e-3] * 3).nats_KB)
    assert all(table for table in sums.take(lambda x: x))


@pytest.mark.slow
def test_interrupted_a_run_goes_on_to_the_same_figures(copy_study: Callable[..., Study]) -> None:
    """To rounding: a GPU adds in an order of its own."""
    whole, cut = copy_study("whole"), copy_study("cut")
    spec = whole.propose().specs[0]
    cut.propose()
    train(whole.layout, [whole.layout.run(spec.run_id)], checkpoint_seconds=NEVER)
    run = cut.layout.run(spec.run_id)
    left = iter([True] * 11 + [False])
    stopped = train(cut.layout, [run], checkpoint_seconds=NEVER, keep_going=lambda: next(left))
    assert stopped.stopped == (spec.run_id,)
    train(cut.layout, [run], checkpoint_seconds=NEVER)
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert starts == [0, 12]
    ours, theirs = (json.loads(s.layout.run(spec.run_id).done.read_text()) for s in (cut, whole))
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=5e-3)
    assert ours["environment"]["device"] == torch.cuda.get_device_name()


@pytest.mark.slow
def test_an_array_that_a_device_cannot_hold_is_halved(
    copy_study: Callable[..., Study],
) -> None:
    """A share of the device's memory, which a few members of some 240 MB fill."""
    study = copy_study(tokens=256)
    path = study.layout.config
    path.write_text(path.read_text().replace("d_model: 16, layers: 1", "d_model: 1024, layers: 1"))
    study = Study.open(study.layout.root)
    ids = [s.run_id for s in study.propose().specs][:8]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.3 * 2**30 / total)
    try:
        found = arrays.train_array(
            study.layout, [study.layout.run(i) for i in ids],
            checkpoint_seconds=NEVER, keep_going=lambda: True,
        )  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert set(found.done) == set(ids)
    for run_id in ids:
        halved = [e for e in read_events(study.layout.run(run_id).events) if e["type"] == "halved"]
        assert (halved[0]["members"], halved[0]["to"]) == (8, 4)


@pytest.mark.slow
def test_a_member_that_breaks_is_frozen_and_the_others_are_not(study: Study) -> None:
    spec = study.propose().specs[0]
    spec = replace(spec, plan=replace(spec.plan, clip=1e12))
    members = made(spec, 3, "graph")
    tokens = torch.randint(spec.vocab_size, (3, spec.plan.batch, native(spec).context + 1))
    for step in range(STEPS):
        members.step(step, Batch(tokens.to(device())), [1e-3, 1e30, 1e-3])
    assert (members.broken_K > 0).tolist() == [False, True, False]
