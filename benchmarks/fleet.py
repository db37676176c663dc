"""How fast do workers share out runs? A simulated fleet, with runs that take no time.

    python -m benchmarks.fleet [--runs 10000] [--workers 64] [--folder DIR]

Every worker is a process of its own that claims a run, marks it done, and goes on, through the same
claims and the same queue as a real one. Half-way all are stopped, as they are, and `regmix status`
and the looks of `regmix watch` are timed; and again at the end. No run may have been done twice, by
the files that workers left.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from proxy_trainer.launch.claims import Claimant
from proxy_trainer.launch.queue import Queue
from regmix import sizes, yaml_io
from regmix.config import ModelConfig, TrainConfig
from regmix.console.screen import Screen, draw
from regmix.layout import StudyLayout
from regmix.mixture import Mixture
from regmix.runs import RunSpec
from regmix.status import status
from regmix.watch import Watch

STUDY = "name: fleet\ndomains:\n  - {name: a, train: a.jsonl}\n"
HOLD_SECONDS = 0.005
"""For which a worker has its run, doing nothing, so that claims are met that others hold."""
DONE = '{"seconds": 1.0, "flops": 1.0, "tokens": 1, "metrics": {}, "environment": {}}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="for the study; default: a temporary one")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        row = measure(StudyLayout(folder), args.runs, args.workers)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)  # it must not hide what failed
    for key, value in row.items():
        print(f"{key:<32}{value:>12}")
    results = Path(__file__).parent / "results" / f"fleet-{platform.machine()}.csv"
    with results.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerow(row)
    sys.exit(any(row[key] for key in ("done_twice", "left_over", "workers_failed")))


def measure(study: StudyLayout, runs: int, workers: int) -> dict[str, object]:
    """One fleet from its first claim to its last run."""
    ids = plan(study, runs)
    row: dict[str, object] = {"runs": runs, "workers": workers, "cores": os.cpu_count()}
    row["status_waiting_s"] = look(study)
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Event()
    fleet = [
        context.Process(target=work, args=(study, ids, n, workers, ready, go))
        for n in range(workers)
    ]
    for process in fleet:
        process.start()
    for _ in fleet:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    stopped = 0.0
    while any(process.is_alive() for process in fleet):
        time.sleep(0.05)
        if not stopped and sum(map(lines, journals(study))) > runs / 2:
            stopped = pause(study, [p.pid for p in fleet if p.is_alive() and p.pid], row)
    seconds = time.perf_counter() - began - stopped
    row["status_done_s"] = look(study)
    row["status_command_s"] = command(study)
    row["watch_done_first_s"], row["watch_done_again_s"] = watch(study)
    by = Counter(run for path in journals(study) for run in path.read_text().split())
    row["seconds"] = round(seconds, 2)
    row["claims_per_s"] = round(runs / seconds)
    row["slowest_claim_ms"] = slowest(study)
    row["done_twice"] = sum(count > 1 for count in by.values())
    row["workers_failed"] = sum(process.exitcode != 0 for process in fleet)
    row["left_over"] = runs - status(study).count("done")
    counts = [lines(path) for path in journals(study)]
    row["runs_of_a_worker"] = f"{min(counts)} to {max(counts)}"
    return row


def plan(study: StudyLayout, runs: int) -> list[str]:
    """Specifications as `regmix propose` leaves them, in planned order."""
    study.root.mkdir(parents=True, exist_ok=True)
    study.config.write_text(STUDY)
    rng = random.Random(0)
    model = sizes.shape(ModelConfig(size="1m"))
    template = RunSpec(
        name="", role="swarm", mixture=Mixture.uniform(tuple("abcdef")), model=model,
        plan=sizes.plan(TrainConfig(), model), vocab_size=4096, data="0123456789abcdef", seed=0,
    )  # fmt: skip
    ids = []
    for number in range(runs):
        draws = [rng.random() for _ in "abcdef"]
        mixture = Mixture.of({d: x / sum(draws) for d, x in zip("abcdef", draws, strict=True)})
        spec = replace(template, name=f"swarm-{number:05d}", mixture=mixture)
        path = study.run(spec.run_id).spec
        path.parent.mkdir(parents=True)
        path.write_text(yaml_io.dump(spec.to_dict()))
        ids.append(spec.run_id)
    study.launches.mkdir()
    return ids


def work(
    study: StudyLayout, ids: list[str], number: int, workers: int, ready: object, go: object
) -> None:
    """A worker's loop, without the training."""
    with (
        Claimant(study.runs, f"w{number}", 120.0).at_work() as claimant,
        (study.launches / f"w{number}.runs").open("w", buffering=1) as journal,
        (study.launches / f"w{number}.times").open("w") as times,
    ):
        queue = Queue(
            map(study.run, ids), claimant, step=lambda _: 0, key=lambda _: None, workers=workers
        )  # fmt: skip
        ready.release()  # type: ignore[attr-defined]
        go.wait()  # type: ignore[attr-defined]
        while True:
            began = time.perf_counter()
            claimed = queue.claim(lambda _: 1)
            times.write(f"{time.perf_counter() - began:.6f}\n")
            if not claimed:
                break
            (claim,) = claimed
            time.sleep(HOLD_SECONDS)
            claim.check()
            journal.write(f"{claim.piece.run_id}\n")
            claim.piece.done.write_text(DONE)
            claimant.drop(claimed)
            claim.release("done")


def journals(study: StudyLayout) -> list[Path]:
    return sorted(study.launches.glob("*.runs"))


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def slowest(study: StudyLayout) -> float:
    """The 99.9th percentile of the time that a claim took, in milliseconds of a crowded machine."""
    found = sorted(float(t) for p in study.launches.glob("*.times") for t in p.read_text().split())
    return round(1e3 * found[int(0.999 * (len(found) - 1))], 1)


def look(study: StudyLayout) -> float:
    """Seconds of one look at the study, the best of three."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        status(study)
        found.append(time.perf_counter() - began)
    return round(min(found), 3)


def watch(study: StudyLayout) -> tuple[float, float]:
    """Seconds of the first look of `regmix watch`, and of the next ones, the best of three.

    Drawn is what there is room for on a screen, as the command does.
    """
    watched, found = Watch(study), []
    for _ in range(4):
        began = time.perf_counter()
        draw(watched.look(), "fleet", Screen(100, 40))
        found.append(time.perf_counter() - began)
    return round(found[0], 3), round(min(found[1:]), 3)


def command(study: StudyLayout) -> float:
    """Seconds of `regmix status` as a person types it, the best of three."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "regmix.cli", "status", str(study.root)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found.append(time.perf_counter() - began)
    return round(min(found), 3)


def pause(study: StudyLayout, pids: list[int], row: dict[str, object]) -> float:
    """Stop all workers where they are, look at the study, and let them go on; seconds it took."""
    began = time.perf_counter()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        row["status_half_way_s"] = look(study)
        row["watch_first_s"], row["watch_again_s"] = watch(study)
        row["running_half_way"] = status(study).count("running")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
