"""`regmix doctor`: devices, launchers, and the command as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from proxy_trainer import doctor
from regmix.config import LaunchConfig
from regmix.pages import page
from regmix.study import Study


def test_this_processor_computes() -> None:
    found = {check.name: check for check in doctor.computing()}
    assert found["cpu"].state == "ok"
    assert found["torch"].found.startswith(torch.__version__)
    for kind, tolerance in doctor.TOLERANCE.items():
        error = doctor.product_error(torch.device("cpu"), kind)
        assert 0 < error < tolerance


def test_a_device_that_computes_wrongly_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "product_error", lambda device, kind: 0.7)
    found = {check.name: check for check in doctor.computing()}["cpu"]
    assert found.state == "problem"
    assert "multiplies wrongly" in found.found
    monkeypatch.setattr(doctor, "product_error", lambda device, kind: float("nan"))
    assert {c.name: c for c in doctor.computing()}["cpu"].state == "problem"

    def lost(device: object, kind: object) -> float:
        raise RuntimeError("CUDA error: no kernel image is available\nmore of it")

    monkeypatch.setattr(doctor, "product_error", lost)
    found = {check.name: check for check in doctor.computing()}["cpu"]
    assert found.found == "does not compute: CUDA error: no kernel image is available"


def test_a_driver_whose_devices_torch_does_not_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if torch.cuda.device_count():
        pytest.skip("torch sees devices here")
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert {c.name: c.state for c in doctor.computing()}["devices"] == "problem"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "devices" not in {c.name for c in doctor.computing()}


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        ("echo 'sbatch: fatal: no configuration' >&2; exit 1", "problem", "no configuration"),
        ("echo 'slurm-wlm 22.05'", "ok", "slurm-wlm 22.05, submitit "),
    ],
)
def test_slurm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, state: str, found: str
) -> None:
    path = tmp_path / "sbatch"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    checks = {c.name: c for c in doctor.launchers(None, LaunchConfig(launcher="slurm"))}
    assert checks["slurm"].state == state
    assert found in checks["slurm"].found


def test_slurm_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = {c.name: c for c in doctor.launchers(None, LaunchConfig(launcher="slurm"))}["slurm"]
    other = {c.name: c for c in doctor.launchers(None, None)}["slurm"]
    assert (wanted.state, other.state) == ("problem", "warning")  # submitit is there, sbatch not
    assert "no sbatch on this machine" in wanted.found


def test_the_command(study: Study, regmix: Callable[..., subprocess.Popen[str]]) -> None:
    root = study.layout.root
    before = sorted(root.rglob("*"))
    process = regmix("doctor", root, "--json")
    out, _ = process.communicate(timeout=300)
    values = json.loads(out)
    checks = {c["name"]: c for c in values["checks"]}
    assert {"python", "packages", "libraries", "torch", "cpu", "slurm", "ray", "launcher local",
            "write access", "hard links", "file locks", "clock", "disk",
            "temporary folder"} <= set(checks)  # fmt: skip
    assert set(checks["cpu"]) == {"name", "state", "found", "advice"}
    assert process.returncode == (1 if values["state"] == "problem" else 0)
    assert sorted(root.rglob("*")) == before


def test_the_command_fails_where_the_study_asks_for_what_is_not_there(study: Study) -> None:
    root = study.layout.root
    text = (root / "study.yaml").read_text()
    assert "launch: {" in text
    (root / "study.yaml").write_text(text.replace("launch: {", "launch: {gpus_per_worker: 99, "))
    found = subprocess.run(
        [sys.executable, "-m", "regmix.cli", "doctor", str(root)],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert found.returncode == 1
    assert "problem  launcher local" in found.stdout
    assert f"→ {page('LAUNCHING')}" in found.stdout
    assert "problems" in found.stdout.splitlines()[-1]
