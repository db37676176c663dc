"""Faults planted into runs that were trained for real, each found by name; and nothing before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy_trainer import steps
from proxy_trainer.data import build, contamination
from proxy_trainer.data.screen import words
from proxy_trainer.data.tokenise import is_valid_document
from regmix.layout import RunLayout
from regmix.mixture import Mixture
from regmix.records import RunRecord
from regmix.runs import RunSpec
from regmix.study import Study

pytestmark = pytest.mark.slow
RUNS = 24


def leak(study: Study, domain: str, documents: int = 6) -> Path:
    """Evaluation items that stand in some training documents of a domain, and others that don't."""
    text = study.layout.root / "text" / f"{domain}.jsonl"
    texts = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    share = next(d.valid_share for d in study.config.domains if d.name == domain)
    trained = [t for t in texts if not is_valid_document(t, share)]
    held = [f"Complete this. {' '.join(words(t)[:16])}" for t in trained[:documents]]
    free = [f"What is left of {i} sheep once {i} dogs have taken one of them each?" for i in "abc"]
    path = study.layout.root / "items.jsonl"
    path.write_text("".join(json.dumps({"question": q}) + "\n" for q in (*held, *free)))
    return path


def trained_as(study: Study, folder: Path, specs: dict[str, RunSpec]) -> None:
    """Runs that a broken trainer did another way than was asked: their files, by run id."""
    shutil.copytree(study.layout.root, folder, ignore=shutil.ignore_patterns("runs", "*.duckdb"))
    workshop = Study.open(folder)
    for spec in specs.values():
        assert workshop.add_run(spec)
    steps.train(workshop, [spec.run_id for spec in specs.values()])
    for run_id, spec in specs.items():
        take(workshop.layout.run(spec.run_id), study.layout.run(run_id))


def take(source: RunLayout, run: RunLayout) -> None:
    """A run's figures and course become another's."""
    run.events.unlink()
    for path in (source.events, source.done):
        shutil.copy2(path, run.root / path.name)


def named(study: Study, name: str) -> RunRecord:
    return next(r for r in study.runs() if r.spec.name == name)


def found(study: Study) -> dict[str, set[str]]:
    """Rules by the names of the runs that break them."""
    rules: dict[str, set[str]] = {}
    for row in study.flags().frame.to_dict("records"):
        rules.setdefault(row["name"], set()).add(row["rule"])
    return rules


def test_planted_faults_of_trained_runs_are_found_and_clean_ones_are_not(
    new_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = new_study(tokens=128 * 80)
    path = study.layout.config
    path.write_text(path.read_text().replace("{runs: 4, replicates: 2}", f"{{runs: {RUNS}}}"))
    study = Study.open(study.layout.root)
    build.build(study.layout, study.config)
    study.propose()
    steps.train(study, study.open_runs())
    assert found(study) == {}, "clean"

    items = contamination.given([leak(study, "prose")], ["question"])
    shown = steps.contamination(study, items).set_index("domain")["items held"]
    assert shown.to_dict() == {"prose": 6, "sums": 0, "code": 0}

    diverged = named(study, "mix-0003")
    swapped = max(
        (r for r in study.runs() if r.spec.role == "swarm" and r.spec.name != "mix-0003"),
        key=lambda r: abs(r.spec.mixture.as_dict()["sums"] - r.spec.mixture.as_dict()["prose"]),
    )
    shares = swapped.spec.mixture.as_dict()
    other = Mixture.of({**shares, "sums": shares["prose"], "prose": shares["sums"]})
    plan = replace(diverged.spec.plan, lr=1.0)
    trained_as(
        study,
        tmp_path / "workshop",
        {
            diverged.spec.run_id: replace(diverged.spec, plan=plan),
            swapped.spec.run_id: replace(swapped.spec, mixture=other),
        },
    )
    take(named(study, "natural").layout, named(study, "natural-seed2").layout)
    rules = found(study)
    assert rules.keys() == {"mix-0003", swapped.spec.name, "natural-seed2"}
    assert "prediction" in rules["mix-0003"]
    assert {"shares", "prediction"} <= rules[swapped.spec.name]
    assert rules["natural-seed2"] == {"copy"}
