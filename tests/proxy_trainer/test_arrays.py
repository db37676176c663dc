"""As many members as pay and fit."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Callable

import pytest
import torch

from proxy_trainer import arrays
from proxy_trainer.data.batch import Batch
from proxy_trainer.execution import WARM_UP
from proxy_trainer.members import Members
from regmix.errors import RegmixError
from regmix.records import read_events
from regmix.study import Study

NEVER = 1e9


def test_too_little_memory_halves_the_array_until_it_fits(
    copy_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = copy_study("whole"), copy_study("short")
    ids = [s.run_id for s in whole.propose().specs][:5]
    short.propose()
    arrays.train_array(
        whole.layout, [whole.layout.run(r) for r in ids],
        checkpoint_seconds=NEVER, keep_going=lambda: True,
    )  # fmt: skip
    step = Members.step

    def step_of_two(self: Members, *args: object) -> object:
        if self.array.members > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you ...")
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Members, "step", step_of_two)
    runs = [short.layout.run(r) for r in ids]
    outcome = arrays.train_array(
        short.layout, runs, checkpoint_seconds=NEVER, keep_going=lambda: True
    )
    assert set(outcome.done) == set(ids)
    for run_id, run in zip(ids, runs, strict=True):
        ours, theirs = (json.loads(r.done.read_text()) for r in (run, whole.layout.run(run_id)))
        assert ours["metrics"] == theirs["metrics"]
        halved = [e for e in read_events(run.events) if e["type"] == "halved"]
        assert [e["members"] for e in halved] == ([5, 3] if run_id in ids[2:] else [5])
        assert "can't allocate" in halved[0]["reason"]


def test_too_little_memory_for_one_is_an_error_and_other_faults_are_not_memory(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = study.layout.run(study.propose().specs[0].run_id)

    def go(fault: Exception) -> None:
        def fail(*_: object) -> None:
            raise fault

        monkeypatch.setattr(Members, "step", fail)
        arrays.train_array(study.layout, [run], checkpoint_seconds=NEVER, keep_going=lambda: True)

    with pytest.raises(RegmixError, match=r"run \w+: too little memory for one model .*smaller"):
        go(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        go(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(
    ("rates", "limit", "expected"),
    [
        ({1: 100, 2: 180, 4: 300, 8: 310, 16: 900}, 64, 4),  # no look past a plateau
        ({1: 100, 2: 180, 4: 300, 8: 600}, 7, 4),
        ({1: 100, 2: 101}, 64, 1),
        ({1: 100, 2: 180, 4: None}, 64, 2),
        ({1: 100}, 1, 1),
    ],
)
def test_members_double_while_that_pays(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    rates: dict[int, float | None],
    limit: int,
    expected: int,
) -> None:
    def rate(_: object, members: int, __: object) -> tuple[float, float]:
        found = rates[members]
        if found is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found, 0.001

    monkeypatch.setattr(arrays, "_rate", rate)
    assert arrays.best_members(study.propose().specs[0], limit) == expected


def test_the_trial_measures_and_a_slow_step_is_not_tried_with_company(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study.propose().specs[0]
    tokens, seconds = arrays._rate(spec, 2, torch.device("cpu"))
    assert tokens == pytest.approx(2 * spec.tokens_per_step / seconds)
    assert 1 <= arrays.best_members(spec, 8) <= 8
    monkeypatch.setattr(arrays, "SLOW_STEP", 0.0)
    assert arrays.best_members(spec, 8) == 1


def test_weights_and_moments_go_with_their_array_and_not_when_a_collector_comes_by(
    study: Study,
) -> None:
    """Halving, and trying twice as many, count on the memory being free at once."""
    spec = study.propose().specs[0]
    made = Members(
        arrays.native(spec), spec.vocab_size, spec.plan, [0, 1],
        device=torch.device("cpu"), separator=0,
    )  # fmt: skip
    tokens = torch.zeros((2, spec.plan.batch, arrays.native(spec).context + 1), dtype=torch.int64)
    gc.collect()
    gc.disable()
    try:
        made.step(0, Batch(tokens), [1e-3, 1e-3])
        left = [weakref.ref(made), weakref.ref(made.array)]
        left += [weakref.ref(p) for p in made.array.parameters()]
        left += [weakref.ref(made._optimiser)]
        del made
        assert [ref() for ref in left] == [None] * len(left)
    finally:
        gc.enable()


@pytest.mark.parametrize(("execution", "first"), [("eager", 2), ("graph", WARM_UP + 1)])
def test_a_trial_does_not_count_the_steps_that_are_unlike_the_others(
    study: Study, monkeypatch: pytest.MonkeyPatch, execution: str, first: int
) -> None:
    """Warm-up, and the recording of a graph, which takes as long as many steps."""
    done: list[int] = []

    class Timed:
        def __init__(self, *_: object, **__: object) -> None:
            done.clear()

        def step(self, *_: object) -> None:
            time.sleep(0.5 if len(done) < first else 0.01)
            done.append(0)

    monkeypatch.setattr(arrays, "Members", Timed)
    monkeypatch.setattr(arrays, "default_execution", lambda _: execution)
    _, seconds = arrays._rate(study.propose().specs[0], 1, torch.device("cpu"))
    assert 0.01 <= seconds < 0.1
