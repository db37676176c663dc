"""Runs in processes: all of them, in spite of one that diverges, and no word of a failure lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy_trainer import steps
from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.launch.claims import Claimant
from proxy_trainer.launch.running import Outcome
from regmix import claims
from regmix.errors import RegmixError, UserError
from regmix.layout import RunLayout
from regmix.records import RunRecord, read_events
from regmix.runs import RunSpec
from regmix.status import status
from regmix.study import Study

pytestmark = pytest.mark.slow
Train = Callable[..., Outcome]


def specs(study: Study) -> list[RunSpec]:
    return list(study.propose().specs)


def metrics(study: Study) -> dict[str, object]:
    return {r.spec.name: r.result()["metrics"] for r in study.runs() if r.status == "done"}


def test_all_runs_are_done_the_same_with_one_worker_and_two(
    copy_study: Callable[..., Study], train_runs: Train
) -> None:
    one, two = copy_study("one"), copy_study("two")
    ids = [s.run_id for s in specs(one)]
    specs(two)
    outcome = train_runs(one, ids, workers=1)
    assert outcome == Outcome(done=ids)
    again = train_runs(two, ids)
    assert sorted(again.done) == sorted(ids)
    assert len(ids) == 9
    assert metrics(one) == metrics(two)
    assert len(metrics(one)) == 9
    environment = next(iter(one.runs())).result()["environment"]
    assert environment["threads"] == 1
    # a second call finds everything done
    before = {r.spec.run_id: r.stamp for r in one.runs()}
    assert steps.train(one, ids) == Outcome()
    assert {r.spec.run_id: r.stamp for r in one.runs()} == before


def test_one_diverges_and_the_others_go_on(study: Study, train_runs: Train) -> None:
    sane = specs(study)[:3]
    bad = replace(sane[0], name="bad", plan=replace(sane[0].plan, lr=1e9, clip=1e9))
    study.add_run(bad)
    ids = [sane[0].run_id, bad.run_id, sane[1].run_id, sane[2].run_id]
    outcome = train_runs(study, ids)
    assert outcome.failed == [bad.run_id]
    assert sorted(outcome.done) == sorted(s.run_id for s in sane)
    record = RunRecord(study.layout.run(bad.run_id), bad)
    assert record.status == "failed"
    assert "at step" in record.failure()["reason"]
    assert status(study.layout).count("failed") == 1
    frame = study.store.query("select name, reason from runs where status = 'failed'")
    assert frame["name"].tolist() == ["bad"]
    assert "at step" in frame["reason"][0]


def test_a_held_run_is_left_to_its_holder(study: Study, train_runs: Train) -> None:
    first, second = (s.run_id for s in specs(study)[:2])
    with Claimant(study.layout.runs, "other", 120.0).at_work() as other:
        assert other.take(study.layout.run(first))
        outcome = train_runs(study, [first, second])
    assert outcome == Outcome(done=[second], busy=[first])


def test_each_of_two_commands_reports_what_it_trained_itself(
    copy_study: Callable[..., Study], regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study = copy_study(tokens=128 * 150)
    ids = {s.run_id for s in specs(study)}
    commands = [regmix("train", study.layout.root) for _ in range(2)]
    outputs = [c.communicate(timeout=120) for c in commands]
    assert [c.returncode for c in commands] == [0, 0], outputs
    pattern = re.compile(r"^(\d+) runs trained, 0 failed$", re.MULTILINE)
    own = [int(pattern.search(out)[1]) for out, _ in outputs]  # type: ignore[index]
    trained = [len([e for e in read_events(study.layout.run(i).events) if e["type"] == "start"])
               for i in ids]  # fmt: skip
    assert trained == [1] * len(ids)
    assert sum(own) == len(ids)
    for mine, (out, _) in zip(own, outputs, strict=True):
        others = re.findall(r"by another command: (\d+) runs trained, (\d+) still in", out)
        assert mine + sum(int(n) for pair in others for n in pair) <= len(ids)


def test_a_run_that_was_done_before_is_not_counted_and_not_touched(
    study: Study, train_runs: Train
) -> None:
    first, second = (s.run_id for s in specs(study)[:2])
    train_runs(study, [first], workers=1)
    stamp = RunRecord(study.layout.run(first), specs(study)[0]).stamp
    outcome = train_runs(study, [first, second])
    assert outcome == Outcome(done=[second])
    assert RunRecord(study.layout.run(first), specs(study)[0]).stamp == stamp


def test_a_held_run_that_its_holder_finishes_meanwhile_counts_as_done_elsewhere(
    study: Study, train_runs: Train
) -> None:
    first, second = (s.run_id for s in specs(study)[:2])
    done = study.layout.run(first).done
    with Claimant(study.layout.runs, "other", 120.0).at_work() as other:
        assert other.take(study.layout.run(first))

        def finish() -> None:
            if study.layout.run(second).done.exists():
                done.write_text("{}")

        outcome = train_runs(study, [first, second], finish, workers=1)
    assert outcome == Outcome(done=[second], elsewhere=[first])


def test_what_stops_a_run_is_told_and_nothing_new_is_started(
    study: Study, train_runs: Train
) -> None:
    ids = [s.run_id for s in specs(study)]
    shard = study.layout.tokens / "code" / "train-00000.bin"
    os.truncate(shard, shard.stat().st_size - 1)
    together = rf"run {ids[0]}( and \d+ with it)? could not go on"
    with pytest.raises(RegmixError, match=together + r": .*train-00000\.bin: has [\d,]+ bytes"):
        train_runs(study, ids, workers=1)
    assert not any(study.layout.run(i).done.exists() for i in ids)


def test_a_killed_worker_is_replaced_and_its_run_goes_on(
    copy_study: Callable[..., Study],
    holder: Callable[[RunLayout], int | None],
    train_runs: Train,
) -> None:
    study = copy_study(tokens=128 * 1500)
    spec = specs(study)[0]
    run = study.layout.run(spec.run_id)
    killed: list[int] = []

    def kill() -> None:
        pid = holder(run)
        if not killed and pid is not None and list(run.checkpoints.glob("*.safetensors")):
            assert pid != os.getpid()
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    outcome = train_runs(study, [spec.run_id], kill, workers=1, checkpoint_seconds=0.05)
    assert outcome.done == [spec.run_id]
    assert killed
    starts = [e["step"] for e in read_events(run.events) if e["type"] == "start"]
    assert starts[0] == 0
    assert len(starts) == 2
    assert starts[1] > 0, "started over although it had a checkpoint"
    (failure,) = claims.failures(claims.log(run.claims))
    assert f"process {killed[0]} on " in failure.reason
    assert failure.reason.endswith("was killed, or fell silent")


def test_training_checks_the_tokenizer_first(study: Study) -> None:
    ids = [s.run_id for s in specs(study)]
    tokenizers.save(tokenizers.train_bpe(iter(["other"]), 257), study.layout.tokenizer)
    with pytest.raises(UserError, match="not the one the shards were built with"):
        steps.train(study, ids)
    assert not study.layout.run(ids[0]).claims.exists()


def test_data_built_again_since_the_proposal_is_told(study: Study) -> None:
    ids = [s.run_id for s in specs(study)]
    path = study.layout.root / "text" / "sums.jsonl"
    path.write_text(path.read_text().replace("9", "8"))
    steps.build_data(study)
    with pytest.raises(RegmixError, match=r"proposed for data .* run `regmix propose` again"):
        steps.train(study, ids)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain(f"cannot mount a small file system: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, free_kb: int) -> Path:
    """Leave only so much free; returns the file to delete."""
    space = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - free_kb * 1024))
    return filler


def test_a_full_disk_is_told_and_training_goes_on_once_there_is_space(
    copy_study: Callable[..., Study],
    small_disk: Path,
    regmix: Callable[..., subprocess.Popen[str]],
    train_runs: Train,
) -> None:
    expected = copy_study("whole", tokens=128 * 200)
    shutil.copytree(expected.layout.root, small_disk / "study")
    study = Study.open(small_disk / "study")
    template = specs(expected)[0]
    chosen = [replace(template, seed=seed) for seed in (0, 1)]
    for spec in chosen:
        expected.add_run(spec)
        study.add_run(spec)
    ids = [s.run_id for s in chosen]
    train_runs(expected, ids)

    filler = fill(small_disk, free_kb=0)  # not even a word about it can be written
    with pytest.raises(RegmixError, match=r"no space left on the disk"):
        steps.train(study, ids)
    filler.unlink()

    filler = fill(small_disk, free_kb=100)  # enough to start, too little for a checkpoint
    command = regmix("train", study.layout.root)
    errors = command.communicate(timeout=60)[1]
    assert command.returncode == 1
    assert errors.startswith("error: run ")
    assert ".safetensors: no space left on the disk; free some and run again" in errors
    assert "Traceback" not in errors
    begun = [e for i in ids if (e := study.layout.run(i).events).exists()]  # by either worker
    assert any(events.stat().st_size for events in begun)
    assert not [i for i in ids if study.layout.run(i).done.exists()]
    filler.unlink()

    assert sorted(steps.train(study, ids).done) == sorted(ids)
    for run_id in ids:
        ours, theirs = (
            json.loads(s.layout.run(run_id).done.read_text()) for s in (study, expected)
        )
        assert ours["metrics"] == theirs["metrics"]
