"""A watched run's figures are those of the run; killed and gone on with, none is told twice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proxy_trainer import steps
from proxy_trainer.events import EventLog
from proxy_trainer.sharded.ranks import Ranks
from proxy_trainer.sharded.run import Settings, train_sharded
from proxy_trainer.train import train
from proxy_trainer.watch import machine, trackers, watcher
from proxy_trainer.watch.growth import WINDOW
from proxy_trainer.watch.machine import Chips, Stopwatch
from proxy_trainer.watch.point import Point
from proxy_trainer.watch.tensorboard import TensorBoard
from proxy_trainer.watch.watcher import Watcher
from regmix.errors import UserError
from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.runs import RunSpec
from regmix.study import Study

NEVER = 1e9
CPU = torch.device("cpu")


class Killed(Exception):
    """As a kill: nothing after it is trained or saved."""


def planned(study: Study, role: str = "target", seed: int = 50) -> RunSpec:
    """A run that is no proxy: a role alone does not make another one."""
    spec = replace(study.propose().specs[0], role=role, seed=seed)
    study.add_run(spec)
    return spec


def go(study: Study, *specs: RunSpec, kill_at: int = 0, **options: Any) -> list[RunLayout]:
    runs = [study.layout.run(s.run_id) for s in specs]

    def on_step(step: int, _: int) -> None:
        if step == kill_at:
            raise Killed

    train(study.layout, runs, **{"checkpoint_seconds": NEVER, "on_step": on_step, **options})
    return runs


def of(run: RunLayout, kind: str) -> list[dict[str, Any]]:
    return [e for e in read_events(run.events) if e["type"] == kind]


def read(run: RunLayout) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, by name."""
    board = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    board.Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


@pytest.fixture
def half_a_gigaflop(monkeypatch: pytest.MonkeyPatch) -> float:
    """The machine's core counts as a chip with a peak."""

    def known(device: torch.device, count: int) -> Chips:
        return Chips("half", count, 5e8)

    monkeypatch.setattr(watcher.Chips, "of", known)
    return 5e8


def test_a_points_figures_fit_together(study: Study, half_a_gigaflop: float) -> None:
    spec = planned(study)
    (run,) = go(study, spec)
    points = of(run, "step")
    assert [p["step"] for p in points] == list(range(1, 31))
    for point in points:
        flops = point["tokens_per_second"] * spec.model.flops_per_token(spec.vocab_size)
        assert point["mfu"] == pytest.approx(flops / half_a_gigaflop)
        assert point["device_bytes"] is None
        assert 2**20 < point["process_bytes"] < 2**36
        assert set(point["losses"]) <= set(study.domains)
    seconds = sum(spec.tokens_per_step / p["tokens_per_second"] for p in points)
    (begun,) = of(run, "start")
    assert 0 < seconds < points[-1]["time"] - begun["time"]


def test_runs_side_by_side_share_the_devices(study: Study, half_a_gigaflop: float) -> None:
    specs = [planned(study, seed=seed) for seed in (51, 52, 53)]
    for run in go(study, *specs):
        for point in of(run, "step"):
            own = point["tokens_per_second"] * specs[0].model.flops_per_token(specs[0].vocab_size)
            assert point["mfu"] == pytest.approx(3 * own / half_a_gigaflop)
        assert len(read(run)["train/loss"]) == 30


def test_a_chip_without_a_known_peak_has_no_utilisation_and_says_why(study: Study) -> None:
    (run,) = go(study, planned(study))
    (devices,) = of(run, "devices")
    assert devices["peak_flops"] is None
    assert devices["why_no_mfu"].startswith(f"no peak FLOP/s is known for '{devices['name']}' (kn")
    assert "H100" in devices["why_no_mfu"]
    assert {p["mfu"] for p in of(run, "step")} == {None}
    assert "speed/mfu" not in read(run)


def test_utilisation_is_of_all_devices() -> None:
    chips = Chips("NVIDIA H100 80GB HBM3", 8, 989e12)
    assert chips.mfu(0.4 * 8 * 989e12) == pytest.approx(0.4)
    assert chips.why_no_mfu == ""


def test_evaluations_and_checkpoints_are_no_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] += 7
    watch.leave_out(5)
    assert watch.read() == 2
    now[0] += 3
    assert watch.read() == 3


def test_proxies_of_a_swarm_stay_as_they_are(study: Study) -> None:
    spec = planned(study, role="swarm")
    (run,) = go(study, spec)
    assert not run.tensorboard.exists()
    assert set(of(run, "step")[0]) == {
        "type", "time", "step", "tokens", "loss", "grad_norm", "lr", "skipped", "losses",
    }  # fmt: skip
    code = (
        "import sys, torch, pathlib\n"
        "from proxy_trainer.train import train\n"
        "from regmix.layout import StudyLayout\n"
        f"study = StudyLayout(pathlib.Path({str(study.layout.root)!r}))\n"
        f"train(study, [study.run({spec.run_id!r})], checkpoint_seconds=9e9)\n"
        "print([m for m in ('tensorboardX', 'wandb', 'trackio') if m in sys.modules])"
    )
    run.done.unlink()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_tensorboard_shows_what_the_log_has(study: Study) -> None:
    (run,) = go(study, planned(study))
    shown = read(run)
    points = of(run, "step")
    for tag, key in (
        ("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("train/lr", "lr"),
        ("train/tokens", "tokens"), ("train/skipped", "skipped"),
        ("speed/tokens_per_second", "tokens_per_second"),
        ("memory/process_bytes", "process_bytes"),
    ):  # fmt: skip
        assert shown[tag] == [(p["step"], pytest.approx(p[key], rel=1e-6)) for p in points]
    for domain in study.domains:
        expected = [(p["step"], p["losses"][domain]) for p in points if domain in p["losses"]]
        assert shown[f"loss/{domain}"] == [(s, pytest.approx(x, rel=1e-6)) for s, x in expected]
    for event in of(run, "metric"):
        value = dict(shown[f"eval/{event['name']}"])[event["step"]]
        assert value == pytest.approx(event["value"], rel=1e-6)


@pytest.mark.parametrize("torn", [False, True])
def test_killed_and_gone_on_with_every_point_is_shown_once(
    copy_study: Callable[..., Study], torn: bool
) -> None:
    """Saved at step 12, killed at 20, and once more: from 12 on it is written anew."""
    whole, cut = copy_study("whole"), copy_study("cut")
    spec = planned(whole)
    planned(cut)
    (expected,) = go(whole, spec)
    run = cut.layout.run(spec.run_id)
    asked = iter(range(1, 100))
    go(cut, spec, keep_going=lambda: next(asked) < 12)
    for kill_at in (20, 17):
        with pytest.raises(Killed):
            go(cut, spec, kill_at=kill_at)
    files = sorted(run.tensorboard.iterdir())
    assert len(files) == 3
    if torn:  # as a full disk, or a node that lost its power, leaves it
        with files[-1].open("ab") as stream:
            stream.truncate(files[-1].stat().st_size - 5)
    go(cut, spec)
    assert run.done.exists()
    ours, theirs = read(run), read(expected)
    for tag in ("train/loss", "train/grad_norm", "train/lr", "train/tokens"):
        assert ours[tag] == theirs[tag]
        assert [step for step, _ in ours[tag]] == list(range(1, 31))
    assert [step for step, _ in ours["speed/tokens_per_second"]] == list(range(1, 31))


def test_what_was_told_is_in_the_file_at_once(tmp_path: Path) -> None:
    """A process that is killed takes nothing with it."""
    code = (
        "import os, pathlib, sys\n"
        "from proxy_trainer.watch.tensorboard import TensorBoard\n"
        "board = TensorBoard(pathlib.Path(sys.argv[1]) / 'tensorboard', 0)\n"
        "for step in (1, 2, 3):\n    board.log(step, {'a': step / 2})\n"
        "os._exit(9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert ended.returncode == 9
    assert read(RunLayout(tmp_path)) == {"a": [(1, 0.5), (2, 1.0), (3, 1.5)]}


def test_two_starts_within_a_second_have_files_of_their_own(tmp_path: Path) -> None:
    run = RunLayout(tmp_path)
    for start in range(12):
        board = TensorBoard(run.tensorboard, start)
        board.log(start + 1, {"a": float(start)})
        board.log(start + 2, {"a": -1.0})  # not saved, and not shown
        board.close()
    assert read(run)["a"] == [*((s + 1, float(s)) for s in range(12)), (13, -1.0)]


@dataclass
class Recorder:
    """A tracker that remembers what it is told."""

    told: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    closed: int = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert all(isinstance(v, float) and math.isfinite(v) for v in values.values())
        self.told.append((step, tuple(values)))

    def close(self) -> None:
        self.closed += 1


def test_trackers_are_told_of_every_step_once(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot take back what they were told before a run was killed."""
    recorder = Recorder()
    asked: list[str] = []

    def opened(name: str, run: RunLayout, spec: RunSpec) -> Recorder:
        asked.append(name)
        return recorder

    monkeypatch.setattr(trackers, "opened", opened)
    spec = planned(study)
    asks = iter(range(1, 100))
    go(study, spec, keep_going=lambda: next(asks) < 12, trackers=["wandb"])
    with pytest.raises(Killed):
        go(study, spec, kill_at=20, trackers=["wandb"])
    go(study, spec, trackers=["wandb"])
    assert asked == ["wandb"] * 3
    assert recorder.closed == 3
    losses = [step for step, names in recorder.told if "train/loss" in names]
    assert losses == list(range(1, 31))
    evaluated = [step for step, names in recorder.told if "eval/bpb/code" in names]
    assert evaluated == [15, 30]
    assert [step for step, _ in recorder.told] == sorted(step for step, _ in recorder.told)


class Failing(Recorder):
    """A tracker whose server goes away."""

    def __init__(self, *, last: int) -> None:
        super().__init__()
        self.last = last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.last:
            raise ConnectionError("the server went away")
        super().log(step, values)

    def close(self) -> None:
        raise TimeoutError("nobody answers")


@pytest.mark.parametrize("last", [10, 100])
def test_a_tracker_that_fails_costs_one_warning_and_no_step(
    last: int, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    both: dict[str, Recorder] = {"wandb": Failing(last=last), "trackio": Recorder()}
    monkeypatch.setattr(trackers, "opened", lambda name, run, spec: both[name])
    spec = planned(study)
    (run,) = go(study, spec, trackers=["wandb", "trackio"])
    assert run.done.exists()
    (warning,) = [e for e in of(run, "warning") if e["about"] == "wandb"]
    why = "ConnectionError: the server went away" if last < 30 else "TimeoutError: nobody answers"
    assert warning["text"] == f"wandb failed and is told no more until the next start ({why})"
    assert warning["step"] == min(last + 1, 30)
    for name, end in (("wandb", min(last, 30)), ("trackio", 30)):
        told = [step for step, names in both[name].told if "train/loss" in names]
        assert told == list(range(1, end + 1))
    assert both["trackio"].closed == 1


def test_a_tracker_that_does_not_begin_is_refused_once_and_then_done_without(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step somebody is there to mend it; a run that goes on is not held up."""
    recorder, begins = Recorder(), True

    def begin(name: str, run: RunLayout, spec: RunSpec) -> Recorder:
        if name == "trackio" and not begins:
            raise OSError("no route to host")
        return recorder

    monkeypatch.setattr(trackers, "check", lambda names: None)
    monkeypatch.setattr(trackers, "_open", begin)
    spec = planned(study)
    begins = False
    with pytest.raises(
        UserError, match=r"launch\.watch: trackio does not begin \(OSError: no route to host\)"
    ):
        go(study, spec, trackers=["wandb", "trackio"])
    assert recorder.closed == 1
    assert not of(study.layout.run(spec.run_id), "step")
    begins = True
    with pytest.raises(Killed):  # before any checkpoint
        go(study, spec, kill_at=20, trackers=["wandb", "trackio"])
    begins = False
    (run,) = go(study, spec, trackers=["wandb", "trackio"])
    assert run.done.exists()
    (warning,) = [e for e in of(run, "warning") if e["about"] == "trackio"]
    assert "no route to host" in warning["text"]
    assert warning["text"].endswith("; this start goes on without it")
    assert {step for step, _ in recorder.told} == set(range(1, 31))


def test_growth_is_told_alike_whether_a_run_was_interrupted_or_not(
    study: Study, tmp_path: Path
) -> None:
    """Norms that double at step 100: interrupted at 110, when too few points are new."""
    spec = planned(study)

    def watch(run: RunLayout, start: int, end: int) -> None:
        with EventLog(run.events) as log:
            own = Watcher(
                run, spec, log.write, step=start, device=CPU, processes=1, members=1
            )  # fmt: skip
            for step in range(start + 1, end + 1):
                norm = 1.0 if step < 100 else 2.5
                own.take(Point(step, 128 * step, 3.0, norm, 1e-3, 0, {}))
            own.close()

    whole, cut = RunLayout(tmp_path / "whole"), RunLayout(tmp_path / "cut")
    watch(whole, 0, 200)
    watch(cut, 0, 112)
    watch(cut, 110, 200)
    ours, theirs = ([(e["step"], e["text"]) for e in of(r, "warning")] for r in (cut, whole))
    assert ours == theirs
    ((step, text),) = theirs
    assert 100 + WINDOW / 2 < step <= 100 + WINDOW
    assert text == "gradient norm 2.50 times as high as around step 32: median 2.5, then 1"


def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    spec = planned(study)
    settings = study.config.launch.model_copy(update={"watch": ("trackio",)})
    message = r"launch\.watch: 'trackio' is not installed here; pip install 'regmix\[trackio\]'"
    with pytest.raises(UserError, match=message):
        steps.train(study, [spec.run_id], settings=settings)
    run = study.layout.run(spec.run_id)
    assert not study.layout.launches.exists()
    assert not run.events.exists()
    with pytest.raises(UserError, match=message):
        go(study, spec, trackers=["trackio"])
    assert not of(run, "step")


def test_a_study_names_its_trackers_and_its_runs_stay_what_they_are(
    copy_study: Callable[..., Study],
) -> None:
    study = copy_study()
    before = {s.run_id for s in study.propose().specs}
    path = study.layout.config
    text = path.read_text()
    path.write_text(text.replace("launch: {", "launch: {watch: [wandb, trackio], "))
    again = Study.open(study.layout.root)
    assert again.config.launch.watch == ("wandb", "trackio")
    assert {s.run_id for s in again.propose().specs} == before
    path.write_text(text.replace("launch: {", "launch: {watch: [tensorbord], "))
    with pytest.raises(
        UserError, match=r"launch\.watch\.0: .* 'tensorbord'\. Valid: trackio, wandb"
    ):
        Study.open(study.layout.root)


def test_a_sharded_run_is_watched_too(
    copy_study: Callable[..., Study], ranks: Ranks, half_a_gigaflop: float
) -> None:
    study = copy_study()
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    train_sharded(study.layout, run, ranks, Settings(NEVER))
    for point in of(run, "step"):
        flops = point["tokens_per_second"] * spec.model.flops_per_token(spec.vocab_size)
        assert point["mfu"] == pytest.approx(flops / half_a_gigaflop)
    assert read(run)["train/loss"] == [
        (e["step"], pytest.approx(e["loss"], rel=1e-6)) for e in of(run, "step")
    ]


def test_regmix_run_prints_lines_that_a_log_file_can_hold(
    recipe: Callable[..., Path], regmix: Callable[..., subprocess.Popen[str]], study: Study
) -> None:
    process = regmix("run", recipe())
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "\r" not in out
    assert "\x1b" not in out
    assert "no MFU: no peak FLOP/s is known for 'cpu" in out
    (last,) = [line for line in out.splitlines() if line.startswith("step 20/20 100 %")]
    assert " · 5.12k tokens · loss " in last
    assert " tok/s · " in last
    swept = [line for line in out.splitlines() if " · step " in line]
    assert len({line.partition(" · ")[0] for line in swept}) == 2
    done = [json.loads(r.layout.done.read_text()) for r in study.runs()]
    assert all(d["skipped_steps"] == 0 for d in done)
    assert all((r.layout.tensorboard).is_dir() for r in study.runs())
    assert os.listdir(study.layout.runs)
