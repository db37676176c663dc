"""What is recorded of where a figure was computed."""

from __future__ import annotations

import json
import platform

import pytest
import torch

from proxy_trainer import arrays
from proxy_trainer.environment import describe
from regmix.study import Study


def test_the_device_is_the_one_that_computes_and_the_processor_stands_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {torch.device("cuda", 1): "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    found = describe(torch.device("cuda", 1))
    assert found["device"] == "NVIDIA H100 80GB HBM3"
    assert str(found["cpu"]).startswith(f"cpu {platform.machine()}")
    alone = describe(torch.device("cpu"))
    assert alone["device"] == alone["cpu"] == found["cpu"]


def test_a_run_records_the_processor_that_trained_it(study: Study) -> None:
    run = study.layout.run(study.propose().specs[0].run_id)
    arrays.train_array(study.layout, [run], checkpoint_seconds=1e9, keep_going=lambda: True)
    recorded = json.loads(run.done.read_text())["environment"]
    assert recorded["device"] == recorded["cpu"] == describe(torch.device("cpu"))["cpu"]
