"""A ladder from study.yaml to its verdict, with real runs."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable

import pandas as pd
import pytest

from proxy_trainer import steps
from regmix.errors import UserError
from regmix.study import Study

LADDER = """ladder:
  - model: {size: 50k, d_model: 32, layers: 1, heads: 2, context: 32}
    train: {tokens: 3840, batch_tokens: 128, lr: 0.005, eval_bytes: 2000}
    mixtures: 6
"""


@pytest.fixture
def laddered(study: Study) -> Study:
    path = study.layout.config
    text = path.read_text().replace("{runs: 4, replicates: 2}", "{runs: 10, replicates: 2}")
    path.write_text(text + LADDER)
    return Study.open(study.layout.root)


@pytest.mark.slow
def test_a_ladder_is_trained_and_says_what_it_finds(
    laddered: Study, regmix: Callable[..., subprocess.Popen[str]]
) -> None:
    study = laddered
    proposed = study.propose()
    rungs = [s for s in proposed.specs if s.role == "ladder"]
    assert len(rungs) == 6
    proxies = {s.mixture.id for s in proposed.specs if s.role in ("swarm", "baseline")}
    assert {s.mixture.id for s in rungs} <= proxies
    assert {s.model.d_model for s in rungs} == {32}
    assert {r.run_id for r in study.propose(14).specs if r.role == "ladder"} == {
        r.run_id for r in rungs
    }
    assert {r.run_id for r in rungs} <= set(study.open_runs())
    with pytest.raises(UserError, match="no finished proxy yet"):
        study.transfer()
    steps.train(study, study.open_runs())
    [found] = study.transfer()
    assert found.mixtures == 6
    assert set(found.table["metric"]) == {"bpb/prose", "bpb/sums", "bpb/code"}
    assert len(study.observations().metrics) == 15, "larger runs are no observations of the proxy"

    root = study.layout.root
    fitted, errors = regmix("fit", root).communicate(timeout=300)
    assert "the objective decides correctly" in fitted, errors
    [again] = study.transfer()
    assert "objective" in set(again.table["metric"])
    output, errors = regmix("transfer", root, "--csv").communicate(timeout=100)
    table = pd.read_csv(io.StringIO(output))
    assert table.set_index("metric")["accuracy"].to_dict() == pytest.approx(
        again.table.set_index("metric")["accuracy"].to_dict(), rel=1e-5
    )
    shown, errors = regmix("transfer", root).communicate(timeout=100)
    assert again.verdict() in shown, errors
    output, errors = regmix("transfer", root, "--json").communicate(timeout=100)
    [size] = json.loads(output)["sizes"]
    assert (size["verdict"], size["mixtures"]) == (again.verdict(), 6)
    assert size["large"]["parameters"] == again.large.parameters


def test_what_is_missing_is_said(study: Study, laddered: Study) -> None:
    with pytest.raises(UserError, match="ladder: is not there; give larger proxies"):
        study.transfer()
    path = laddered.layout.config
    path.write_text(path.read_text().replace("mixtures: 6", "mixtures: 2"))
    with pytest.raises(UserError, match=r"ladder\.0\.mixtures.*greater than or equal to 4"):
        Study.open(path.parent)
    path.write_text(
        path.read_text().replace("mixtures: 2", "mixtures: 6").replace("32, layers", "16, layers")
    )
    own = path.read_text().replace(
        "lr: 0.005, eval_bytes: 2000}", "lr: 0.005, eval_bytes: 2000, eval_points: 2}"
    )
    path.write_text(own)
    with pytest.raises(UserError, match=r"ladder\.0: is the proxy itself"):
        Study.open(path.parent).propose()
    path.write_text(own.replace("proxy:\n", "proxy:\n  keep_model: true\n", 1))
    assert "keep_model: true" in path.read_text()
    with pytest.raises(UserError, match=r"ladder\.0: is the proxy itself"):
        Study.open(path.parent).propose()
