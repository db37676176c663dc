"""Does a study survive anything? Random kills of a small real one, compared with one left alone.

    python -m benchmarks.chaos [-n 30] [--seed 0] [--tokens 768000] [--folder DIR]

A study is trained by `regmix train` while workers, the command, or all of them together are killed
with SIGKILL at random moments; a command that dies is started again. In the end every run must have
come to the figures of an uninterrupted study, to the bit, each training step must be in the store
once, and no run may be FAILED. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from proxy_trainer.data import build
from regmix import claims
from regmix.records import read_events
from regmix.study import Study

WORDS = "the a red blue small old new house river stone light walks sees holds under over".split()
STUDY = """\
name: chaos
domains:
  - {name: prose, train: text/prose.jsonl, valid_share: 0.1}
  - {name: sums, train: text/sums.jsonl, valid_share: 0.1}
  - {name: lists, train: text/lists.jsonl, valid_share: 0.1}
data: {tokenizer: {vocab_size: 512}}
proxy:
  model: {size: 50k, d_model: 16, layers: 1, heads: 2, context: 32}
  train: {tokens: %(tokens)d, batch_tokens: 128, lr: 0.005, eval_bytes: 2000, eval_points: 4}
swarm: {runs: 6, replicates: 2}
launch: {workers: 2, checkpoint_seconds: 0.2}
"""
WHAT = ("worker", "worker", "command", "both")
"""A worker alone twice as often as the others; ``both``: the command and all that it started."""
PAUSE_SECONDS = (0.3, 3.0)
"""Between a moment when something trains and the next kill."""
TOKENS_A_KILL = 128 * 200
"""Of each run: what the study trains between two kills on a slow core, and a fifth more."""
START_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=30, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, help=f"of each run; default: {TOKENS_A_KILL} a kill")
    parser.add_argument("--folder", type=Path, help="for the studies; default: a temporary one")
    args = parser.parse_args()
    tokens = args.tokens or TOKENS_A_KILL * args.n
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        expected = plan(folder / "whole", tokens)
        run_to_end(expected)
        study = plan(folder / "killed", tokens)
        kills = Chaos(study, random.Random(args.seed)).kill(args.n)
        same = compare(study, expected)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    print("\nkilled   " + ", ".join(f"{what} {count}" for what, count in sorted(kills.items())))
    short = args.n - kills.total()
    if short:
        print(f"the study ended {short} kills early; give it more --tokens")
    print("the same to the bit" if same else "DIFFERENT")
    sys.exit(not same or short > 0)


def plan(root: Path, tokens: int) -> Study:
    """A study of three domains of generated text, built and proposed."""
    rng = random.Random(7)
    make = {
        "prose": lambda: " ".join(rng.choice(WORDS) for _ in range(40)) + ".",
        "sums": lambda: "\n".join(f"{a} + {a % 7} = {a + a % 7}" for a in rng.sample(range(99), 9)),
        "lists": lambda: "\n".join(f"- {w}" for w in rng.sample(WORDS, 9)),
    }
    for name, document in make.items():
        path = root / "text" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": document()}) + "\n" for _ in range(240)))
    (root / "study.yaml").write_text(STUDY % {"tokens": tokens})
    study = Study.open(root)
    build.build(study.layout, study.config)
    study = Study.open(root)
    study.propose()
    return study


def start(study: Study) -> subprocess.Popen[bytes]:
    """`regmix train` as a person types it, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "regmix.cli", "train", str(study.layout.root)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def run_to_end(study: Study) -> None:
    """Train whatever is left; a command that ends without an error has left nothing."""
    if start(study).wait():
        raise SystemExit("regmix train failed")


class Chaos:
    """Kills at random, by a seed: what is killed and after how long, not which step it hits."""

    def __init__(self, study: Study, rng: random.Random) -> None:
        self._study = study
        self._rng = rng
        self._command: subprocess.Popen[bytes] | None = None

    def kill(self, count: int) -> Counter[str]:
        """Kill ``count`` times, if there is so much to train, and train what is left."""
        kills: Counter[str] = Counter()
        while kills.total() < count and not self._ended():
            what = self._rng.choice(WHAT)
            time.sleep(self._rng.uniform(*PAUSE_SECONDS))
            if self._strike(what):
                kills[what] += 1
                print(f"{kills.total():>4} {what:<8} {self._so_far()}", flush=True)
        if self._command is not None:
            self._command.wait()
        run_to_end(self._study)
        return kills

    def _ended(self) -> bool:
        """Whether all is trained; waits until something is being trained otherwise."""
        deadline = time.monotonic() + START_SECONDS
        while not self._workers():
            if all(record.status in ("done", "failed") for record in self._study.runs()):
                return True
            if self._command is None or self._command.poll() is not None:
                self._command = start(self._study)
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing was trained for {START_SECONDS:.0f} s")
            time.sleep(0.05)
        return False

    def _workers(self) -> list[int]:
        entries = (claims.last(r.layout.claims) for r in self._study.runs() if r.status != "done")
        held = (e for e in entries if e is not None and e.kind == "claimed" and not e.process.gone)
        return sorted({e.process.pid for e in held})

    def _strike(self, what: str) -> bool:
        workers = self._workers()
        if not workers or self._command is None:
            return False
        victims = [self._rng.choice(workers)] if what == "worker" else []
        victims = workers if what == "both" else victims
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if what != "worker":
            with suppress(ProcessLookupError):
                if what == "both":
                    os.killpg(self._command.pid, signal.SIGKILL)
                self._command.kill()
            self._command.wait()
        return True

    def _so_far(self) -> str:
        states = Counter(record.status for record in self._study.runs())
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def compare(study: Study, expected: Study) -> bool:
    """Print a row a run, and say whether all are as they should be."""
    print(f"\n{'run':<14}{'starts':>7}{'claims':>8}{'failed':>8}  metrics")
    same = results(study) == results(expected)
    theirs = results(expected)
    for record in study.runs():
        log = claims.log(record.layout.claims)
        starts = sum(e["type"] == "start" for e in read_events(record.layout.events))
        claimed = sum(entry.kind == "claimed" for entry in log)
        equal = results(study).get(record.spec.run_id) == theirs[record.spec.run_id]
        print(
            f"{record.spec.run_id:<14}{starts:>7}{claimed:>8}{len(claims.failures(log)):>8}  "
            f"{'the same' if equal else 'DIFFERENT'}"
        )
    steps_same = steps(study) == steps(expected)
    if not steps_same:
        print("the logged steps differ")
    return same and steps_same


def results(study: Study) -> dict[str, Any]:
    """Of every finished run, what must not depend on how it came to its end."""
    keys = ("metrics", "steps", "tokens", "domains", "flops")
    done = {r.spec.run_id: r.result() for r in study.runs() if r.status == "done"}
    return {run_id: {key: result[key] for key in keys} for run_id, result in done.items()}


def steps(study: Study) -> list[tuple[object, ...]]:
    """Every training step in the store."""
    frame = study.store.query("select run_id, step, loss, grad_norm from steps order by all")
    return [tuple(row) for row in frame.itertuples(index=False)]


if __name__ == "__main__":
    main()
