"""W&B and trackio themselves, where they are installed, without a network: what they have kept."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from regmix.layout import RunLayout
from regmix.records import read_events
from regmix.runs import RunSpec
from regmix.study import Study

PROGRAM = """
import pathlib, sys
from proxy_trainer.train import train
from regmix.errors import UserError
from regmix.layout import StudyLayout

class Killed(Exception):
    pass

def on_step(step, _):
    if step == int(kill_at):
        raise Killed

root, kill_at, stop_at, tracker, *ids = sys.argv[1:]
study = StudyLayout(pathlib.Path(root))
asked = iter(range(1, 1000))
try:
    train(study, [study.run(i) for i in ids], checkpoint_seconds=9e9, trackers=[tracker],
          keep_going=lambda: next(asked) != int(stop_at), on_step=on_step)
except Killed:
    pass
except UserError as exc:
    sys.exit(str(exc))
"""


def go(
    study: Study,
    tracker: str,
    *specs: RunSpec,
    kill_at: int = 0,
    stop_at: int = 0,
    **environment: str,
) -> str:
    """Train in a process of its own, as these libraries are used; what it says at its end."""
    command = [sys.executable, "-c", PROGRAM, str(study.layout.root), str(kill_at), str(stop_at)]
    command += [tracker, *(s.run_id for s in specs)]
    home = str(study.layout.root / "home")
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": home, "NETRC": f"{home}/netrc", **environment},
    )  # fmt: skip
    assert found.returncode in (0, 1), found.stderr
    return found.stderr.strip().splitlines()[-1] if found.returncode else ""


def planned(study: Study, seed: int = 50) -> RunSpec:
    spec = replace(study.propose().specs[0], role="target", seed=seed)
    study.add_run(spec)
    return spec


def records(path: Path) -> Iterator[bytes]:
    """Of a ``.wandb`` file: LevelDB's log format behind seven bytes of its own."""
    raw, place, parts = path.read_bytes(), 7, b""
    assert raw[:4] == b":W&B"
    while place + 7 <= len(raw):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", raw, place)
        parts += raw[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def kept_by_wandb(run: RunLayout) -> list[dict[str, Any]]:
    """Rows of all times that the run was started."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted(run.root.glob("wandb/offline-run-*/*.wandb")):
        for raw in records(path):
            record = Record.FromString(raw)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
    return rows


def of(run: RunLayout, kind: str) -> dict[int, dict[str, Any]]:
    return {e["step"]: e for e in read_events(run.events) if e["type"] == kind}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="the extra wandb is not installed")
def test_wandb_keeps_every_step_once_offline(study: Study) -> None:
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    for ends in ({"stop_at": 12}, {"kill_at": 20}, {}):
        assert go(study, "wandb", spec, WANDB_MODE="offline", **ends) == ""
    assert run.done.exists()
    rows = kept_by_wandb(run)
    losses = {row["_step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert len([row for row in rows if "train/loss" in row]) == len(losses) == 30
    assert losses == {s: pytest.approx(e["loss"]) for s, e in of(run, "step").items()}
    measured = {row["_step"]: row["eval/bpb/code"] for row in rows if "eval/bpb/code" in row}
    assert list(measured) == [15, 30]
    assert all(f"-{spec.run_id}" in p.name for p in run.root.glob("wandb/offline-run-*"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="the extra wandb is not installed")
def test_wandb_without_a_key_says_what_to_do_before_anything_is_trained(study: Study) -> None:
    spec = planned(study)
    said = go(study, "wandb", spec, WANDB_MODE="online", WANDB_API_KEY="")
    assert said.startswith("launch.watch: wandb does not begin (")
    assert "`wandb login`, or set WANDB_MODE=offline" in said
    assert not of(study.layout.run(spec.run_id), "step")


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_runs_side_by_side_are_kept_apart(
    copy_study: Callable[..., Study], tmp_path: Path, tracker: str
) -> None:
    if find_spec(tracker) is None:
        pytest.skip(f"the extra {tracker} is not installed")
    study = copy_study()
    specs = [planned(study, seed) for seed in (51, 52)]
    folder = tmp_path / "trackio"
    said = go(study, tracker, *specs, WANDB_MODE="offline", TRACKIO_DIR=str(folder))
    assert said == ""
    for spec in specs:
        run = study.layout.run(spec.run_id)
        expected = {s: pytest.approx(e["loss"]) for s, e in of(run, "step").items()}
        if tracker == "wandb":
            rows = [(r["_step"], r) for r in kept_by_wandb(run)]
        else:
            rows = kept_by_trackio(folder, spec)
        found = [(step, r["train/loss"]) for step, r in rows if "train/loss" in r]
        assert len(found) == 30
        assert dict(found) == expected


def kept_by_trackio(folder: Path, spec: RunSpec) -> list[tuple[int, dict[str, Any]]]:
    with sqlite3.connect(folder / "study.db") as db:
        query = "select step, metrics from metrics where run_name = ? order by id"
        found = db.execute(query, [spec.run_id]).fetchall()
    db.close()
    return [(step, json.loads(values)) for step, values in found]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="the extra trackio is not installed")
def test_trackio_keeps_every_step_once(study: Study, tmp_path: Path) -> None:
    spec = planned(study)
    run = study.layout.run(spec.run_id)
    folder = tmp_path / "trackio"
    for ends in ({"stop_at": 12}, {"kill_at": 20}, {}):
        assert go(study, "trackio", spec, TRACKIO_DIR=str(folder), **ends) == ""
    rows = kept_by_trackio(folder, spec)
    losses = [(step, values["train/loss"]) for step, values in rows if "train/loss" in values]
    assert len(losses) == 30
    assert dict(losses) == {s: pytest.approx(e["loss"]) for s, e in of(run, "step").items()}
    assert [step for step, values in rows if "eval/bpb/code" in values] == [15, 30]
