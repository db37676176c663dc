"""Small studies to report on: one whose runs were imported, one whose runs were trained here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regmix import imports, sizes
from regmix.config import FitConfig
from regmix.files import write_json, write_text
from regmix.intake import create_for_import
from regmix.manifest import DataManifest, DomainManifest, Shard, SplitManifest
from regmix.mixture import Mixture
from regmix.runs import RunSpec
from regmix.study import Study

QUICK = FitConfig(regressor="gp", samples=500, top_k=20, repeats=1)
NASTY = ("<script>alert(1)</script>", "a&b", "cost$in$and^_", "数学")
DOMAINS = ("books", "code", "math", "web")
EFFECTS = {"books": (2.1, 0.9), "code": (1.4, 1.1), "math": (1.8, 0.7), "web": (2.3, 0.6)}
NOISE = 0.003


@pytest.fixture
def imported(tmp_path: Path) -> Study:
    """30 runs of four domains and three metrics, all with names that need escaping; not fitted."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(4), size=30).round(4)
    weights[:, 0] += 1 - weights.sum(1)
    runs = pd.Index([f"run<{i}>" for i in range(30)], name="run_id")
    metrics = pd.DataFrame(
        {
            "<b>loss</b>": 3 - weights[:, 0] + 0.01 * rng.standard_normal(30),
            "p&l$x$": 2 - weights[:, 1] ** 0.5,
            "英語": 4 - weights[:, 2],
        },
        index=runs,
    )
    mixtures, values = tmp_path / "mixtures.csv", tmp_path / "metrics.csv"
    pd.DataFrame(weights, runs, list(NASTY)).to_csv(mixtures)
    metrics.to_csv(values)
    return create_for_import(
        tmp_path / "study", imports.read_csvs(mixtures, values), [mixtures, values]
    )


@dataclass(frozen=True)
class Trained:
    """A study whose run folders are filled as a trainer would fill them."""

    study: Study

    def finish(self, name: str, metrics: Mapping[str, float]) -> None:
        """Write the log and the end marker of every run of this name, with these metrics."""
        for record in self.study.runs():
            if record.spec.name == name:
                _finish(self.study, record.spec, metrics)

    def target(self, name: str, mixture: Mixture, seed: int, metrics: Mapping[str, float]) -> None:
        """A finished run at the target size."""
        spec = self.study.target_run(name, mixture, seed)
        self.study.add_run(spec)
        _finish(self.study, spec, metrics)

    def fail(self, name: str, reason: str) -> None:
        """Mark a run as failed."""
        for record in self.study.runs():
            if record.spec.name == name:
                write_json(record.layout.failed, {"reason": reason})


def true_metrics(mixture: Mixture, noise: Sequence[float] = (0, 0, 0, 0)) -> dict[str, float]:
    """Bits per byte by domain: a power law of the domain's own share."""
    return {
        f"bpb/{d}": low + gain * (mixture[d] + 0.05) ** -0.3 / 2 + extra
        for (d, (low, gain)), extra in zip(EFFECTS.items(), noise, strict=True)
    }


def build(root: Path, runs: int = 20) -> Trained:
    """A trained study: swarm, baselines and replicates finished; nothing fitted."""
    study = _empty_study(root)
    natural, uniform = study.references()["natural"], study.references()["uniform"]
    rng = np.random.default_rng(3)
    planned: list[tuple[str, str, Mixture, int]] = [
        ("natural", "baseline", natural, 0),
        ("natural-seed1", "replicate", natural, 1),
        ("natural-seed2", "replicate", natural, 2),
        ("uniform", "baseline", uniform, 0),
    ]
    for i in range(runs):
        # 64ths are exact in binary: a mixture that is read again is the same to the last digit.
        counts = rng.multinomial(64, rng.dirichlet(np.ones(4)))
        planned.append((f"m{i:03d}", "swarm", Mixture.from_array(DOMAINS, counts / 64), 0))
    template = study.target_run("", uniform)
    model = sizes.shape(study.config.proxy.model)
    plan = sizes.plan(study.config.proxy.train, model)
    template = replace(template, model=model, plan=plan, keep_model=False)
    for name, role, mixture, seed in planned:
        spec = replace(template, name=name, role=role, mixture=mixture, seed=seed)
        study.add_run(spec)
        _finish(study, spec, true_metrics(mixture, list(NOISE * rng.standard_normal(4))))
    return Trained(study)


@pytest.fixture(scope="session")
def _templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained study without and one with a fit, made once; tests get copies."""
    bare, fitted = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("fitted")
    build(bare)
    shutil.copytree(bare, fitted, dirs_exist_ok=True)
    Study.open(fitted).fit(settings=QUICK)
    Study.open(fitted).plot.learning()  # kept with the fit, for all the copies
    return bare, fitted


@pytest.fixture
def unfitted(_templates: tuple[Path, Path], tmp_path: Path) -> Trained:
    """A trained study without a fit."""
    return Trained(Study.open(shutil.copytree(_templates[0], tmp_path / "unfitted")))


@pytest.fixture
def trained(_templates: tuple[Path, Path], tmp_path: Path) -> Trained:
    """A trained study with a fit."""
    return Trained(Study.open(shutil.copytree(_templates[1], tmp_path / "trained")))


def _empty_study(root: Path) -> Study:
    lines = ["name: trained&true", "domains:", *(f"  - name: {d}" for d in DOMAINS)]
    write_text(root / "study.yaml", "\n".join(lines) + "\n")

    def split(tokens: int, name: str) -> SplitManifest:
        shard = Shard(f"{name}/0.bin", tokens, 10, f"{name}{tokens}")
        return SplitManifest(tokens, 10, 4 * tokens, (shard,))

    manifest = DataManifest(
        domains=tuple(
            DomainManifest(d, split(t, d), split(1000, d))
            for d, t in zip(DOMAINS, (1_000_000, 2_000_000, 1_000_000, 4_000_000), strict=True)
        ),
        vocab_size=512,
        eod_id=0,
        dtype="uint16",
        tokenizer="hand-made",
    )
    manifest.save(root / "tokens" / "manifest.json")
    return Study.open(root)


def _finish(study: Study, spec: RunSpec, metrics: Mapping[str, float]) -> None:
    folder = study.layout.run(spec.run_id)
    where = {"time": 1.0, "step": spec.plan.steps, "tokens": spec.tokens}
    events = [{"type": "step", **where, "loss": 3.0, "grad_norm": 1.0, "lr": 1e-3}]
    events += [
        {"type": "metric", **where, "name": name, "split": "valid", "value": value}
        for name, value in metrics.items()
    ]
    write_text(folder.events, "".join(json.dumps(e) + "\n" for e in events))
    done = {
        "run_id": spec.run_id,
        "steps": spec.plan.steps,
        "tokens": spec.tokens,
        "flops": spec.flops,
        "seconds": 7.5,
        "metrics": dict(metrics),
        "domains": [
            {"domain": d, "realised": w + (0.001 if d == "math" else 0.0), "epochs": 2 * w}
            for d, w in spec.mixture.as_dict().items()
        ],
        "environment": {"torch": "2.13", "host": "<host>"},
    }
    write_json(folder.done, done)
