"""Benchmarks that need what a machine may not have say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_without_a_gpu_its_benchmark_is_skipped_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "gpu.csv"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(out)],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "skipped: no GPU on this machine\n"), done.stderr
    assert not out.exists()
