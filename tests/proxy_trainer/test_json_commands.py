"""``--json`` of the commands that build and train."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from regmix.study import Study


@pytest.mark.slow
def test_from_text_to_trained_runs(
    new_study: Callable[..., Study], regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study = new_study(tokens=128 * 4)
    root = study.layout.root

    def values(*arguments: object) -> dict[str, Any]:
        out, err = regmix(*arguments, "--json").communicate(timeout=300)
        assert err == ""
        found: dict[str, Any] = json.loads(out)
        return found

    built = values("data", "build", root)
    manifest = Study.open(root).manifest
    assert manifest is not None
    assert built["fingerprint"] == manifest.fingerprint
    assert [d["name"] for d in built["domains"]] == ["prose", "sums", "code"]
    assert built["domains"][0]["train"]["tokens"] == manifest.domains[0].train.tokens
    runs = {r["run_id"] for r in values("propose", root)["runs"]}
    estimate = values("train", root, "--dry-run")
    assert estimate["runs"] == len(runs)
    assert estimate["tokens"] == len(runs) * 128 * 4
    prices = {p["offer"]["launcher"]: p for p in estimate["prices"]}
    assert prices["local"]["hours"] > 0, "by trial, before the first run"
    assert prices["local"]["cost"] is None
    assert values("cancel", root) == {"jobs": []}
    outcome = values("train", root)
    assert set(outcome) == {"done", "failed", "busy", "elsewhere"}
    assert set(outcome["done"]) == runs
    status = values("status", root)
    assert status["finished"]
    assert status["spent"]["device_hours"] > 0
    assert values("train", root, "--dry-run")["runs"] == 0
