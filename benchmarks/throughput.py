"""How many tokens a second does a swarm train on a CPU? Ours beside three other trainers.

    python -m benchmarks.throughput [--only compare|scale] [--shapes d64,d128,d32]
        [--members 16] [--workers 2] [--rounds 7] [--seconds 3] [--profile] [--work FOLDER]

The same model (equal weights and batches; the losses of the first steps are compared), batch and
precision (fp32) for ours, a plain loop around transformers' Llama, litgpt and OLMo-core. A peer
trains its members one after another, as one pinned process a core with one thread each and as one
process with a thread a core, eager and compiled, with the fastest AdamW and loss it has; its best
counts. Workers of ours ask for huge pages and keep freed memory; peers are taken as they come, and
with ``--peers-memory system,ours`` with these settings too, which they would have to be told. Every
contestant stays ready, and all are measured in turns, one window a round, so that what else the
machine does falls on all alike: tokens/s are medians over the rounds, ratios and shares of the
sgemm peak (2,048 x 2,048 on all cores at once, in torch.mm and in oneDNN, which is the faster one
on processors not of Intel's make) medians of what the rounds gave. ``cpu_share`` is the part of its
cores' time that a contestant had, ``tokens_cpu_s`` the rate had it been all: well below 1 the
machine was not quiet, and the table says so. Peak memory is the sum over a contestant's processes,
libraries included.

``--only scale`` measures ours alone, for every combination of ``--members 1,4,8,16`` and
``--workers 1,2``. Results are kept by the processor's maker. Peers are installed into environments
of their own under ``--work``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.swarms import RESULTS
from proxy_trainer.launch.environment import training_environment
from proxy_trainer.models.gpt import GPT
from regmix.sizes import ModelShape

PEERS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parents[1]
BATCH, BATCHES = 8, 64
"""Sequences a step, and how many different batches of random tokens there are."""
QUIET = 0.9
"""Share of the cores' time below which a figure is not to be relied on."""
SGEMM = ("sgemm", "sgemm_onednn")
"""What the cores can do: torch.mm, and oneDNN where it is faster."""
KEPT_MEMORY = (
    f"glibc.malloc.mmap_threshold={2**30}",
    f"glibc.malloc.trim_threshold={2**31 - 1}",
    f"glibc.malloc.top_pad={2**26}",
)
"""What `proxy_trainer.setup` asks of the allocator, in the words of its environment variable."""
LOSS_TOLERANCE = 1e-3
"""Relative; the first loss agrees to about 1e-6, rounding grows over the steps after it."""


@dataclass(frozen=True)
class Proxy:
    """A shape to train, and the vocabulary it is trained with."""

    shape: ModelShape
    vocab_size: int

    @property
    def flops(self) -> float:
        """Training FLOPs a token."""
        return self.shape.flops_per_token(self.vocab_size)


def _proxy(d_model: int, layers: int, heads: int, vocab_size: int) -> Proxy:
    d_ff = 8 * round(d_model * 8 / 3 / 8)
    return Proxy(ModelShape(d_model, layers, heads, heads, d_ff, 128, False, False), vocab_size)


PROXIES = {
    "d64": _proxy(64, 2, 4, 4096),
    "d128": _proxy(128, 4, 4, 4096),
    "d32": _proxy(32, 2, 2, 512),
}


@dataclass(frozen=True)
class Variant:
    """One way to run one trainer."""

    who: str
    runner: str
    processes: int
    threads: int
    compiled: bool = False
    memory: str = "ours"
    """Who keeps freed memory, in huge pages: ``ours``; or ``system``, as the system has it."""

    @property
    def layout(self) -> str:
        """Processes x threads."""
        return f"{self.processes}x{self.threads}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["compare", "scale"])
    parser.add_argument("--shapes", type=_words, default=list(PROXIES))
    parser.add_argument("--peers", type=_words, default=list(RUNNERS))
    parser.add_argument("--members", type=_numbers, default=[16])
    parser.add_argument("--workers", type=_numbers, default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one window")
    parser.add_argument("--eager-only", action="store_true", help="leave compiled peers out")
    parser.add_argument("--peers-memory", type=_words, default=["system"], help="system,ours")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--work", type=Path, default=_cache() / "regmix-throughput")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.only != "scale":
        compare(args)
    if args.only == "scale" or len(args.members) * len(args.workers) > 1:
        scale(args)


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


def compare(args: argparse.Namespace) -> None:
    """Ours against every peer, shape by shape."""
    cores = len(os.sched_getaffinity(0))
    variants = [Variant("ours", "ours", max(args.workers), 1)]
    for peer in args.peers:
        for compiled in (False,) if args.eager_only else (False, True):
            for layout in dict.fromkeys([(cores, 1), (1, cores)]):
                for memory in args.peers_memory:
                    variants.append(Variant(peer, RUNNERS[peer], *layout, compiled, memory))
    variants += [Variant(name, name, cores, 1) for name in SGEMM]
    tables = []
    for name in args.shapes:
        measured = measure(name, [(v, max(args.members)) for v in variants], args)
        table = tabulate(name, variants, measured)
        print(table.to_string(index=False), flush=True)
        print(verdict(table), flush=True)
        tables.append(table)
    _keep(pd.concat(tables), "throughput")


def scale(args: argparse.Namespace) -> None:
    """Ours by members and workers."""
    wanted = [(w, k) for w in args.workers for k in args.members if k >= w]
    tables = []
    for name in args.shapes:
        variants = [Variant("ours", "ours", w, 1) for w, _ in wanted]
        measured = measure(name, [(v, k) for v, (_, k) in zip(variants, wanted, strict=True)], args)
        rows = [
            {"shape": name, "workers": w, "members": k, **m.summary()}
            for (w, k), m in zip(wanted, measured, strict=True)
        ]
        table = pd.DataFrame(rows)
        print(table.to_string(index=False), flush=True)
        tables.append(table)
    _keep(pd.concat(tables), "throughput-scale")


def _keep(table: pd.DataFrame, name: str) -> None:
    """Write the table; what is there of shapes that were not measured now stays."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{_maker()}.csv"
    if path.exists():
        before = pd.read_csv(path)
        table = pd.concat([before[~before["shape"].isin(table["shape"])], table])
    table.to_csv(path, index=False)


def _maker() -> str:
    """Whose processor it is: by that differ the products of the libraries behind everybody."""
    found = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    makers = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
    return next((m for vendor, m in makers.items() if vendor in found), platform.machine())


# Contestants: processes that stay ready.


@dataclass
class Measured:
    """What the windows of one contestant gave."""

    ready: dict[str, Any]
    rates: np.ndarray
    """Work (tokens; for sgemm, FLOPs) a second, a round each."""
    cpu: np.ndarray
    """Share of its cores' time that it had, a round each: below 1 others took the rest."""
    peak_mib: float

    def summary(self) -> dict[str, Any]:
        """Median and spread of the rates, share of the cores' time, peak memory."""
        return {
            "tokens_s": round(float(np.median(self.rates))),
            "low": round(float(self.rates.min())),
            "high": round(float(self.rates.max())),
            "cpu_share": round(float(np.median(self.cpu)), 3),
            "tokens_cpu_s": round(float(np.median(self.rates / self.cpu))),
            "peak_mib": round(self.peak_mib),
        }


class Contestant:
    """The processes of one variant, each pinned to its cores."""

    def __init__(self, variant: Variant, proxy: Proxy, members: int, args: Any) -> None:
        self.variant, self.peak_kib = variant, 0.0
        cores = sorted(os.sched_getaffinity(0))
        self.processes = []
        for i in range(variant.processes):
            own = cores[i * variant.threads :][: variant.threads]
            share = members // variant.processes + (i < members % variant.processes)
            job = _job(proxy, args.work) | {
                "members": share, "cores": own, "compiled": variant.compiled
            }  # fmt: skip
            self.processes.append(_start(variant, job, args.work))
        self.ready = self._answers()[0]

    def ask(self, command: str, argument: float) -> list[Any]:
        """Give all processes a command at the same time, and wait for all answers."""
        for process in self.processes:
            process.stdin.write(f"{command} {argument}\n")
            process.stdin.flush()
        return self._answers()

    def rate(self, seconds: float) -> tuple[float, float]:
        """Work a second over all processes in one window, and the share of the cores' time."""
        answers = self.ask("window", seconds)
        self.peak_kib = sum(a["peak_kib"] for a in answers)
        rate = sum(a["work"] / a["seconds"] for a in answers)
        cpu = np.mean([a["cpu_seconds"] / a["seconds"] for a in answers])
        return float(rate), float(cpu) / self.variant.threads

    def _answers(self) -> list[Any]:
        lines = [process.stdout.readline() for process in self.processes]
        if not all(lines):
            raise SystemExit(f"{self.variant}: a process ended; its message is above")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()


RUNNERS = {
    "transformers": "transformers_loop",
    "litgpt": "litgpt_loop",
    "olmo_core": "olmo_core_loop",
}


def _start(variant: Variant, job: dict[str, Any], work: Path) -> subprocess.Popen[str]:
    python = environment(variant.who, work) if variant.who in RUNNERS else sys.executable
    settings = {
        "OMP_NUM_THREADS": str(variant.threads),
        "PYTHONPATH": str(ROOT) if variant.who == "ours" else "",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    found = dict(os.environ)
    if variant.memory == "ours":  # as launchers of ours start workers, and what these do themselves
        found = training_environment()
        if variant.who != "ours":
            found["GLIBC_TUNABLES"] = ":".join([found["GLIBC_TUNABLES"], *KEPT_MEMORY])
    return subprocess.Popen(
        [str(python), str(PEERS / f"{variant.runner}.py"), json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=found | settings,
    )


def environment(peer: str, work: Path) -> Path:
    """The Python of the peer's own environment, installed once for its pins."""
    pins, constraints = PEERS / f"{peer}.txt", PEERS / "constraints.txt"
    identity = hashlib.sha256(pins.read_bytes() + constraints.read_bytes()).hexdigest()[:8]
    folder = work / f"{peer}-{identity}"
    python, marker = folder / "bin" / "python", folder / ".ready"
    if not marker.exists():
        print(f"installing {peer} into {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "-qq", "-c", constraints, "-r", pins]
        subprocess.run(command, check=True)
        marker.touch()
    return python


def _job(proxy: Proxy, work: Path) -> dict[str, Any]:
    shape = proxy.shape
    inputs = work / f"inputs-{shape.d_model}-{shape.layers}-{proxy.vocab_size}.pt"
    if not inputs.exists():
        _write_inputs(proxy, inputs)
    return {
        "d_model": shape.d_model, "layers": shape.layers, "heads": shape.heads,
        "d_ff": shape.d_ff, "vocab_size": proxy.vocab_size, "context": shape.context,
        "batch": BATCH, "inputs": str(inputs),
    }  # fmt: skip


def _write_inputs(proxy: Proxy, path: Path) -> None:
    """Initial weights under transformers' names, and batches of random tokens."""
    model = GPT(proxy.shape, proxy.vocab_size)
    model.initialise(0)
    size = (BATCHES, BATCH, proxy.shape.context + 1)
    tokens = torch.randint(proxy.vocab_size, size, generator=torch.Generator().manual_seed(0))
    torch.save({"weights": model.state_dict(), "tokens": tokens}, path)


@contextmanager
def contestants(
    name: str, wanted: list[tuple[Variant, int]], args: argparse.Namespace
) -> Iterator[list[Contestant]]:
    """All of them started, one after another, and ended together."""
    with ExitStack() as stack:
        started = []
        for variant, members in wanted:
            print(f"{name}: {variant.who} {variant.layout} ...", file=sys.stderr, flush=True)
            one = Contestant(variant, PROXIES[name], members, args)
            stack.callback(one.close)
            started.append(one)
        yield started


def measure(
    name: str, wanted: list[tuple[Variant, int]], args: argparse.Namespace
) -> list[Measured]:
    """Windows in turns, after one round that only warms up."""
    with contestants(name, wanted, args) as started:
        for one in started:
            one.rate(min(1.0, args.seconds))
        rounds = [[one.rate(args.seconds) for one in started] for _ in range(args.rounds)]
        if args.profile:
            for one in started:
                _print_profile(name, one)
        return [
            Measured(one.ready, found[:, 0], found[:, 1], one.peak_kib / 1024)
            for one, found in zip(started, np.array(rounds).swapaxes(0, 1), strict=True)
        ]


def _print_profile(name: str, one: Contestant) -> None:
    table = pd.DataFrame(one.ask("profile", 20)[0])
    kind = "compiled" if one.variant.compiled else "eager"
    print(f"\n{name}: {one.variant.who}, {one.variant.layout}, {kind}; one process, a step")
    print(table.to_string(index=False, float_format="%.3f"))


# Tables.


def tabulate(name: str, variants: list[Variant], measured: list[Measured]) -> pd.DataFrame:
    """A row a variant; ratios and shares are medians over the rounds."""
    ours, (mm, onednn) = measured[0], measured[-2:]
    flops = PROXIES[name].flops
    rows = []
    for variant, one in zip(variants[:-2], measured[:-2], strict=True):
        rows.append(
            {
                "shape": name,
                "who": variant.who,
                "version": one.ready["version"],
                "layout": variant.layout,
                "compiled": variant.compiled,
                "memory": variant.memory,
                "options": one.ready["options"],
                **one.summary(),
                "ours_over_this": _median(ours.rates / one.rates),
                "sgemm_share": _median(one.rates * flops / mm.rates),
                "onednn_share": _median(one.rates * flops / onednn.rates),
                "sgemm_gflops": _median(mm.rates / 1e9, 1),
                "onednn_gflops": _median(onednn.rates / 1e9, 1),
                "parameters": one.ready["parameters"],
                "first_loss": round(one.ready["losses"][0], 6),
                "tenth_loss": round(one.ready["losses"][-1], 6),
            }
        )
        _same_work(variant, one.ready, ours.ready)
    return pd.DataFrame(rows)


def _median(values: np.ndarray, digits: int = 3) -> float:
    return round(float(np.median(values)), digits)


def _same_work(variant: Variant, found: dict[str, Any], ours: dict[str, Any]) -> None:
    """A peer that trains another model, or trains it otherwise, is no comparison."""
    if found["parameters"] != ours["parameters"]:
        raise SystemExit(f"{variant}: {found['parameters']} parameters, ours {ours['parameters']}")
    for step, (a, b) in enumerate(zip(found["losses"], ours["losses"], strict=True)):
        if not math.isclose(a, b, rel_tol=LOSS_TOLERANCE):
            raise SystemExit(f"{variant}: loss {a} at step {step} from equal weights, ours {b}")


def verdict(table: pd.DataFrame) -> str:
    """Ours against the best peer, compiled or not, and against the best eager one."""
    ours = table.iloc[0]
    lines = [
        f"{ours['shape']}: {ours['sgemm_share']:.0%} of torch.mm's {ours['sgemm_gflops']} GFLOP/s",
        f"{ours['onednn_share']:.0%} of oneDNN's {ours['onednn_gflops']}",
    ]
    peers = table.iloc[1:]
    for memory, own in peers.groupby("memory", sort=False):
        for kind, rows in (("best peer", own), ("best eager peer", own[~own["compiled"]])):
            if len(rows):
                best = rows.loc[rows["ours_over_this"].idxmin()]
                what = f"{best['who']} {best['layout']}{' compiled' if best['compiled'] else ''}"
                lines.append(f"{best['ours_over_this']:.2f}x the {kind} ({what}, memory: {memory})")
    if ours["cpu_share"] < QUIET:
        lines.append(f"NOT QUIET: ours had {ours['cpu_share']:.0%} of its cores' time")
    return "; ".join(lines) + "\n"


if __name__ == "__main__":
    main()
