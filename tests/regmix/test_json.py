"""``--json``: one JSON object, nothing beside it, with the figures that the commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from regmix.cli import main
from regmix.mixture import MixtureFile
from regmix.study import Study


@pytest.fixture
def values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """What a command prints with ``--json``."""

    def run(*arguments: object, code: int = 0) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["regmix", *map(str, arguments), "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        assert end.value.code == code, told.err
        assert told.err == ""
        found: dict[str, Any] = json.loads(told.out)
        return found

    return run


def test_planning(make_study: Callable[..., Study], values: Callable[..., dict[str, Any]]) -> None:
    study = make_study()
    found = values("propose", study.layout.root)
    records = {r.spec.run_id: r.spec for r in study.runs()}
    assert found["new"] == len(found["runs"]) == len(records)
    for run in found["runs"]:
        spec = records[run["run_id"]]
        assert run["weights"] == pytest.approx(spec.mixture.as_dict())
        assert (run["name"], run["role"], run["tokens"]) == (spec.name, spec.role, spec.tokens)
    assert values("propose", study.layout.root)["new"] == 0


def test_status(trained: Study, values: Callable[..., dict[str, Any]]) -> None:
    found = values("status", trained.layout.root)
    assert found["finished"] is True
    assert found["counts"]["done"] == len(found["runs"]) == len(trained.runs())
    assert found["eta_seconds"] is None
    assert set(found) == {
        "time", "finished", "counts", "tokens", "planned_tokens", "tokens_per_second",
        "eta_seconds", "spent", "roles", "workers", "training", "problems", "runs",
    }  # fmt: skip


def test_results(trained: Study, values: Callable[..., dict[str, Any]], tmp_path: Any) -> None:
    root = trained.layout.root
    found = values("fit", root)
    latest = trained.latest_fit()
    assert found["fit_id"] == latest.fit_id
    assert found["diagnostics"] == latest.diagnostics
    best = MixtureFile.load(Path(found["mixture"])).mixture.as_dict()
    assert found["proposal"]["best"]["weights"] == pytest.approx(best, abs=1e-5)
    output = tmp_path / "predicted.csv"
    weights = trained.observations().weights.rename_axis("id")
    weights.to_csv(tmp_path / "mixtures.csv")
    told = values("predict", root, "--mixtures", tmp_path / "mixtures.csv", "-o", output)
    table = pd.read_csv(output)
    assert told["output"] == str(output)
    assert told["mixtures"] == len(table) == len(weights)
    assert told["metrics"] == list(table.columns[1::2])
    front = values("pareto", root, "--x", "bpb/web", "--y", "bpb/code", "--points", "4")
    assert len(front["front"]) == len(pd.read_csv(front["csv"])) - len(front["points"])
    assert {p["name"] for p in front["points"]} >= {"natural", "proposal"}
    assert values("report", root) == {"report": str(trained.layout.report)}
    assert trained.layout.report.is_file()


def test_an_error_is_told_as_ever(
    make_study: Callable[..., Study],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_study().layout.root
    monkeypatch.setattr(sys, "argv", ["regmix", "fit", str(root), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert (end.value.code, told.out) == (2, "")
    assert told.err.startswith("error: ")
