"""As many members as pay and fit."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch

from proxy_trainer import arrays, faults, loop
from proxy_trainer.data import pool
from proxy_trainer.data.batch import Batch
from proxy_trainer.device_memory import free_on, give_back
from proxy_trainer.evals import whole
from proxy_trainer.execution import WARM_UP, rows_at_once
from proxy_trainer.members import Members
from proxy_trainer.state import Run, State
from proxy_trainer.train import train
from regmix.errors import RegmixError
from regmix.records import read_events
from regmix.sizes import ModelShape
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


HUNGRY = """
import re, resource, sys
import pyarrow.parquet  # loaded when it is needed, for which there may be no room
from proxy_trainer import arrays, faults, loop
from proxy_trainer.setup import set_up
from regmix.study import Study

set_up()
study = Study.open(sys.argv[1])
runs = [study.layout.run(run_id) for run_id in sys.argv[2:]]
status = open("/proc/self/status").read()
now = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", status)[1])
resource.setrlimit(resource.RLIMIT_AS, (now + 320 * 2**20,) * 2)
found = arrays.train_array(
    study.layout, runs, checkpoint_seconds=1e9, keep_going=lambda: True
)
print(len(found.done))
"""
"""Trains runs with room for 320 MB more than the libraries take."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_a_system_that_gives_no_more_memory_halves_the_array(
    copy_study: Callable[..., Study],
) -> None:
    """Eight members of 60 MB each do not fit; some of them do, to the same bits."""
    whole, short = copy_study("whole", tokens=256), copy_study("short", tokens=256)
    for study in (whole, short):
        path = study.layout.config
        text = path.read_text().replace("d_model: 16", "d_model: 512")
        path.write_text(text.replace("eval_bytes: 2000", "eval_bytes: 200"))
    ids = [s.run_id for s in Study.open(whole.layout.root).propose().specs][:8]
    Study.open(short.layout.root).propose()
    command = [sys.executable, "-c", HUNGRY, str(short.layout.root), *ids]
    # What counts is what is reserved, and for every thread that allocates glibc reserves 64 MB.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    assert done.stdout == "8\n", done.stderr
    arrays.train_array(
        whole.layout, [whole.layout.run(ids[0])],
        checkpoint_seconds=NEVER, keep_going=lambda: True,
    )  # fmt: skip
    for run_id in ids:
        events = read_events(short.layout.run(run_id).events)
        halved = [e for e in events if e["type"] == "halved"]
        assert (halved[0]["members"], halved[0]["to"]) == (8, 4)
        assert halved[0]["rows"] in (4, None), "on a CPU it stays"
    ours, theirs = (json.loads(s.layout.run(ids[0]).done.read_text()) for s in (short, whole))
    assert ours["metrics"] == theirs["metrics"]


def test_what_is_done_when_memory_runs_out_is_not_trained_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As members leave ``DONE`` one after the other, with a model each."""
    runs = [study.layout.run(s.run_id) for s in study.propose().specs[:4]]
    finish, asked = loop._finish, iter(range(100))
    finished: list[str] = []

    def third_lacks_memory(state: State, member: int, run: Run) -> None:
        if next(asked) == 2:
            raise lacking()
        finish(state, member, run)
        finished.append(run.spec.run_id)

    monkeypatch.setattr(loop, "_finish", third_lacks_memory)
    outcome = arrays.train_array(
        study.layout, runs, checkpoint_seconds=NEVER, keep_going=lambda: True
    )
    assert finished == [run.run_id for run in runs]
    assert sorted(outcome.done) == sorted(finished)
    starts = [[e["members"] for e in read_events(r.events) if e["type"] == "start"] for r in runs]
    assert starts == [[4], [4], [4, 1], [4, 1]]


def lacking() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory")


def test_on_a_gpu_one_run_is_computed_in_smaller_parts_before_it_fails(
    copy_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves of the array at as many sequences each, then fewer sequences at once."""
    whole, short = copy_study("whole"), copy_study("short")
    ids = [s.run_id for s in whole.propose().specs][:2]
    short.propose()
    arrays.train_array(
        whole.layout, [whole.layout.run(r) for r in ids],
        checkpoint_seconds=NEVER, keep_going=lambda: True,
    )  # fmt: skip
    step, most = Members.step, 1

    def step_of_few(self: Members, *args: object) -> object:
        if self.array.members * self.rows > most:
            raise lacking()
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Members, "step", step_of_few)
    monkeypatch.setattr(arrays, "rows_can_be_fewer", lambda _: True)
    runs = [short.layout.run(r) for r in ids]
    outcome = arrays.train_array(
        short.layout, runs, checkpoint_seconds=NEVER, keep_going=lambda: True
    )
    assert set(outcome.done) == set(ids)
    for run_id, run in zip(ids, runs, strict=True):
        ours, theirs = (json.loads(r.done.read_text()) for r in (run, whole.layout.run(run_id)))
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-4)
        halved = [e for e in read_events(run.events) if e["type"] == "halved"]
        assert [(e["members"], e["to"], e["rows"], e["rows_to"]) for e in halved] == [
            (2, 1, 4, 4), (1, 1, 4, 2), (1, 1, 2, 1),
        ]  # fmt: skip
    most = 0
    third = short.layout.run(short.propose().specs[2].run_id)
    with pytest.raises(RegmixError, match=f"run {third.run_id}: too little memory for one model"):
        arrays.train_array(short.layout, [third], checkpoint_seconds=NEVER, keep_going=lambda: True)


@pytest.mark.parametrize(
    ("words", "known"),
    [("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory", True),
     ("std::bad_alloc", True), ("CUDA error: out of memory", True),
     ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
     ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True), ("shapes do not fit", False)],
)  # fmt: skip
def test_want_of_memory_is_known_by_what_libraries_say(words: str, known: bool) -> None:
    assert faults.want_of_memory(RuntimeError(words)) == (words if known else "")


def test_want_of_memory_is_found_behind_what_it_led_to() -> None:
    """As where the end of a recording fails, since what was recorded did."""
    try:
        try:
            raise lacking()
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")
    except RuntimeError as exc:
        found = faults.want_of_memory(exc)
    assert found == str(lacking())
    assert faults.want_of_memory(MemoryError()) == "MemoryError"


def test_a_file_that_cannot_be_mapped_for_memory_is_want_of_it_and_no_other_trouble() -> None:
    short, missing = (OSError(n, os.strerror(n)) for n in (errno.ENOMEM, errno.ENOENT))
    assert faults.want_of_memory(short) == "[Errno 12] Cannot allocate memory"
    assert faults.want_of_memory(missing) == ""


def test_what_is_not_allocated_yet_is_left_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made, cuda = ModelShape(512, 8, 8, 8, 1024, 1024, False, False), torch.device("cuda")
    a_row = 1024 * 512 * 60 * 9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100 * a_row, 0))
    assert rows_at_once(made, 128, 1, cuda) == 50, "half of what is free"
    assert rows_at_once(made, 128, 5, cuda) == 10
    assert rows_at_once(made, 128, 1, cuda, owed=40 * a_row) == 30
    assert rows_at_once(made, 128, 1, cuda, owed=100 * a_row) == 1
    assert rows_at_once(made, 20, 1, cuda) == 20
    kept = 60 * 2 + 4 * 8  # one block at a time, and every block's input
    assert rows_at_once(made, 999, 1, cuda, recompute=True) == 50 * 60 * 9 // kept
    masks = 1024**2 * (2 + 2 * 8)
    assert rows_at_once(made, 999, 1, cuda, masked=True) == 50 * a_row // (a_row + masks)
    assert rows_at_once(made, 999, 1, torch.device("cpu"), owed=100 * a_row) == 999


def test_what_torch_keeps_for_nobody_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an array as before it: rows, the tokens' pool, and models that are asked."""
    made, cuda = ModelShape(512, 8, 8, 8, 1024, 1024, False, False), torch.device("cuda")
    a_row = 1024 * 512 * 60 * 9

    def holding(driver: int, reserved: int, allocated: int) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (driver * a_row, 999 * a_row))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved * a_row)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated * a_row)

    for figures in ((100, 0, 0), (100, 30, 30), (10, 90, 0), (10, 120, 30), (0, 100, 0)):
        holding(*figures)
        assert free_on(cuda) == whole.free_on(cuda) == 100 * a_row
        assert rows_at_once(made, 128, 1, cuda) == 50
        assert pool._fits(24 * a_row, cuda)
        assert not pool._fits(26 * a_row, cuda)
    holding(10, 90, 90)
    assert rows_at_once(made, 128, 1, cuda) == 5, "what is in use is not free"


def test_runs_at_another_step_and_trials_begin_with_the_memory_of_those_before(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = study.propose().specs[:2]
    first, second = (study.layout.run(spec.run_id) for spec in specs)
    train(study.layout, [first], checkpoint_seconds=NEVER, keep_going=lambda: False)
    begun: list[weakref.ref[Members]] = []
    left: list[list[Members | None]] = []
    init = Members.__init__

    def noted(self: Members, *args: object, **kwargs: object) -> None:
        begun.append(weakref.ref(self))
        init(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Members, "__init__", noted)
    for module in ("train", "arrays"):
        monkeypatch.setattr(
            f"proxy_trainer.{module}.give_back", lambda _: left.append([ref() for ref in begun])
        )
    assert len(train(study.layout, [first, second], checkpoint_seconds=NEVER).done) == 2
    assert left == [[], [None]]
    arrays.best_members(specs[0], 2)
    assert left[2:] == [[None] * 2, [None] * 3]


def test_what_hangs_in_cycles_is_given_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: done.append("collected"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    give_back(torch.device("cpu"))
    assert not done
    give_back(torch.device("cuda"))
    assert done == ["collected", "given back"]


def test_arrays_of_many_sizes_are_all_compiled(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function's ninth shape is computed as written, without a word but a warning's."""
    spec = study.propose().specs[0]
    compiled: list[int] = []

    def counted(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(1)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    for members in range(1, 11):
        compiled.clear()
        made = Members(
            arrays.native(spec), spec.vocab_size, spec.plan, range(members),
            device=torch.device("cpu"), separator=0, execution="compiled",
        )  # fmt: skip
        made.array.double()  # takes the way that GPUs take
        made._hidden(torch.zeros((members, 1, 8), dtype=torch.int64), None)
        assert compiled, f"{members} members were not compiled"


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
        go(lacking())
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
