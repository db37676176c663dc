"""Checks of an installation that need torch: devices that compute, launchers that can start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module, metadata
from typing import Literal

import torch

from proxy_trainer.hardware import peak_flops
from proxy_trainer.launch import devices, local, running
from proxy_trainer.launch.slurm_system import ask
from regmix.config import LaunchConfig
from regmix.doctor import Check
from regmix.errors import RegmixError
from regmix.layout import StudyLayout
from regmix.pages import page

SIZE = 256
"""Of the matrices that a device multiplies: enough for it to use its matrix units."""
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative error of a product's norm; float32 may be computed in TF32."""


def computing() -> Iterator[Check]:
    """Torch, and whether every device that it sees multiplies matrices rightly."""
    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    count = torch.cuda.device_count()
    if not count and shutil.which("nvidia-smi") and os.environ.get(devices.VISIBLE) != "":
        yield Check(
            "devices", "problem",
            f"nvidia-smi is there, but torch {torch.__version__} sees no device",
            "install the torch build of the driver's CUDA version (pytorch.org, Get started)",
        )  # fmt: skip
    for device in [torch.device("cpu"), *(torch.device("cuda", i) for i in range(count))]:
        yield _device(device)


def _device(device: torch.device) -> Check:
    """Compare its products with those of the CPU in double precision."""
    name = "cpu" if device.type == "cpu" else f"device {device.index}"
    try:
        error = {kind: product_error(device, kind) for kind in TOLERANCE}
        about = _about(device)
    except RuntimeError as exc:  # a device that is lost, busy, or of an architecture torch lacks
        why = str(exc).strip().splitlines()[0]
        return Check(name, "problem", f"does not compute: {why}", _MEND)
    wrong = [kind for kind, found in error.items() if not found <= TOLERANCE[kind]]
    if wrong:
        told = ", ".join(f"{kind}: {error[kind]:.2g}" for kind in wrong)
        return Check(name, "problem", f"{about} multiplies wrongly (relative error {told})", _MEND)
    return Check(name, "ok", f"{about}, float32 and bfloat16 products are right")


_MEND = "leave it out with CUDA_VISIBLE_DEVICES; see nvidia-smi, and the driver against torch"


def product_error(device: torch.device, kind: torch.dtype) -> float:
    """Relative error, by norm, of a product of random matrices.

    Raises:
        RuntimeError: the device cannot compute.
    """
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=random, dtype=torch.float64) for _ in range(2))
    right = a @ b
    found = (a.to(device, kind) @ b.to(device, kind)).to("cpu", torch.float64)
    return float((found - right).norm() / right.norm())


def _about(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{len(local.cores())} cores, {torch.backends.cpu.get_cpu_capability()}"
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    peak = peak_flops(name)
    known = "" if peak is None else f", peak {peak / 1e12:,.0f} TFLOP/s in bfloat16"
    return f"{name}, {free / 2**30:,.0f} of {total / 2**30:,.0f} GiB free{known}"


def launchers(layout: StudyLayout | None, settings: LaunchConfig | None) -> Iterator[Check]:
    """What workers can be started with; that of a study must do what the study asks of it.

    Args:
        layout: the study.
        settings: its ``launch:``.
    """
    chosen = None if settings is None else settings.launcher
    yield from _slurm(wanted=chosen == "slurm")
    yield from _ray(wanted=chosen == "ray")
    if layout is not None and settings is not None and chosen != "ray":  # it would start a cluster
        yield _chosen(layout, settings)


def _slurm(*, wanted: bool) -> Iterator[Check]:
    missing = _missing("slurm", "submitit")
    if missing and not wanted and not shutil.which("sbatch"):
        yield Check("slurm", "ok", "not there, and not asked for")
        return
    state: Literal["problem", "warning"] = "problem" if wanted else "warning"
    try:
        answer = ask("sbatch", "--version")
    except RegmixError as exc:
        yield Check("slurm", state, str(exc), "or use another launcher")
        return
    version = answer.stdout.strip()
    if answer.returncode or not version:
        why = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
        yield Check("slurm", state, f"sbatch is there but does not work: {why}", _CONFIGURE)
    elif missing:
        yield Check("slurm", state, f"{version}; {missing}", _PIP)
    else:
        yield Check("slurm", "ok", f"{version}, submitit {metadata.version('submitit')}")


_CONFIGURE = "run this where jobs are submitted, or configure Slurm's client here (slurm.conf)"


def _ray(*, wanted: bool) -> Iterator[Check]:
    missing = _missing("ray", "ray")
    if missing:
        found = missing if wanted else "not installed, and not asked for"
        yield Check("ray", "problem" if wanted else "ok", found, _PIP if wanted else "")
        return
    where = os.environ.get("RAY_ADDRESS")
    yield Check("ray", "ok", f"{metadata.version('ray')}, {where or 'no RAY_ADDRESS'}")


_PIP = "pip install 'regmix[slurm]' or 'regmix[ray]', in the same environment on every node"


def _missing(extra: str, module: str) -> str:
    """Why a launcher's library does not load; empty if it does."""
    try:
        import_module(module)
    except ImportError as exc:
        return f"regmix[{extra}]: {exc}"
    return ""


def _chosen(layout: StudyLayout, settings: LaunchConfig) -> Check:
    """What `train` asks of the study's launcher before it starts anything."""
    name = f"launcher {settings.launcher}"
    try:
        asked = devices.settled(settings)
        workers = asked.workers or len(local.cores())
        running.prepare(layout, [], asked, workers)
    except RegmixError as exc:
        return Check(name, "problem", str(exc), f"{page('LAUNCHING')} has what it needs")
    gpus = f" of {asked.gpus_per_worker} devices" if asked.gpus_per_worker else ""
    return Check(name, "ok", f"{workers} workers{gpus} could be started")
