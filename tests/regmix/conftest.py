"""Studies without a trainer: a manifest by hand, runs filled as a worker would fill them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regmix import imports
from regmix.files import write_json, write_text
from regmix.intake import create_for_import
from regmix.manifest import DataManifest, DomainManifest, Shard, SplitManifest
from regmix.records import RunRecord
from regmix.study import Study

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TOKENS = {"web": 600_000, "code": 300_000, "math": 100_000}
STUDY = """\
name: small
seed: 3
domains:
  - name: web
    train: text/web.jsonl
  - name: code
    train: text/code.jsonl
  - name: math
    train: text/math.jsonl
proxy:
  model: {size: 50k}
  train: {tokens: 40960, batch_tokens: 1024}
target:
  model: {size: 100k}
  train: {tokens: 81920, batch_tokens: 1024}
swarm: {runs: 12, concentration: [0.5, 20]}
fit: {regressor: gp, samples: 2000, repeats: 1}
"""


@pytest.fixture
def real_data() -> Path:
    """The folder of real inputs beside the repository."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data is not there: {REAL_DATA}")
    return REAL_DATA


def _split(name: str, split: str, tokens: int) -> SplitManifest:
    shard = Shard(f"{name}/{split}-0.bin", tokens, tokens // 100, f"sha-{name}-{split}-{tokens}")
    return SplitManifest(tokens, tokens // 100, tokens * 4, (shard,))


def manifest_of(tokens: Mapping[str, int]) -> DataManifest:
    domains = tuple(
        DomainManifest(name, _split(name, "train", n), _split(name, "valid", n // 10))
        for name, n in tokens.items()
    )
    return DataManifest(domains, vocab_size=4096, eod_id=0, dtype="uint16", tokenizer="tok")


@pytest.fixture(scope="session")
def make_manifest() -> Callable[[Mapping[str, int]], DataManifest]:
    """A manifest for training tokens by domain."""
    return manifest_of


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """``make_study(more_yaml, folder)``: a study of three domains whose data count as built."""

    def make(more: str = "", folder: str = "study", tokens: Mapping[str, int] = TOKENS) -> Study:
        root = tmp_path / folder
        write_text(root / "study.yaml", STUDY + more)
        manifest_of(tokens).save(root / "tokens" / "manifest.json")
        return Study.open(root)

    return make


def surface(weights: Mapping[str, float], noise: float = 0.0) -> dict[str, float]:
    """Bits per byte by domain, falling with the domain's own share."""
    return {f"bpb/{d}": 2.0 + 1.5 * float(np.exp(-3 * w)) + noise for d, w in weights.items()}


@dataclass(frozen=True)
class Worker:
    """Fills run folders as a trainer does: log first, marker last."""

    def log(self, record: RunRecord, metrics: Mapping[str, float], step: int = 40) -> None:
        tokens = step * record.spec.tokens_per_step
        base = {"step": step, "tokens": tokens, "time": 0.0}
        events = [
            {"type": "start", **base},
            {"type": "step", **base, "loss": 3.0, "grad_norm": 1.0, "lr": 1e-3},
            *(
                {"type": "metric", **base, "name": n, "split": "valid", "value": v}
                for n, v in metrics.items()
            ),
        ]
        with record.layout.events.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(event) + "\n" for event in events)

    def mark_done(self, record: RunRecord, metrics: Mapping[str, float]) -> None:
        spec = record.spec
        domains = [
            {"domain": d, "requested": w, "realised": w, "epochs": 0.1}
            for d, w in spec.mixture.as_dict().items()
        ]
        write_json(
            record.layout.done,
            {
                "metrics": dict(metrics), "domains": domains, "seconds": 1.5,
                "flops": spec.flops, "tokens": spec.tokens, "environment": {"host": "here"},
            },
        )  # fmt: skip

    def finish(self, record: RunRecord, metrics: Mapping[str, float] | None = None) -> None:
        if metrics is None:
            noise = 1e-3 * (record.spec.seed - 3)
            metrics = surface(record.spec.mixture.as_dict(), noise)
        self.log(record, metrics)
        self.mark_done(record, metrics)

    def finish_all(self, study: Study) -> None:
        for record in study.runs():
            self.finish(record)

    def fail(self, record: RunRecord, reason: str) -> None:
        write_json(record.layout.failed, {"reason": reason})


@pytest.fixture
def worker() -> Worker:
    """Stands in for the trainer by writing what it writes."""
    return Worker()


@pytest.fixture
def trained(make_study: Callable[..., Study], worker: Worker) -> Study:
    """A study with a finished swarm."""
    study = make_study()
    study.propose()
    worker.finish_all(study)
    return study


@dataclass(frozen=True)
class SwarmFiles:
    """Two CSVs of one swarm, and the frames behind them."""

    mixtures: Path
    metrics: Path
    weights: pd.DataFrame
    values: pd.DataFrame

    def write(
        self, weights: pd.DataFrame | None = None, values: pd.DataFrame | None = None
    ) -> None:
        (self.weights if weights is None else weights).to_csv(self.mixtures, index_label="run")
        (self.values if values is None else values).to_csv(self.metrics, index_label="run")


@pytest.fixture
def swarm_files(tmp_path: Path) -> SwarmFiles:
    """24 runs over three domains, two metrics, in two CSVs."""
    rng = np.random.default_rng(7)
    index = pd.Index([f"r{i:02d}" for i in range(24)])
    weights = pd.DataFrame(rng.dirichlet(np.ones(3), 24), index, ["web", "code", "math"])
    values = pd.DataFrame(
        {
            "loss": ((weights - [0.5, 0.3, 0.2]) ** 2).sum(axis=1) + 2,
            "acc": 0.3 + 0.4 * weights["math"],
        }
    )
    files = SwarmFiles(tmp_path / "mixtures.csv", tmp_path / "metrics.csv", weights, values)
    files.write()
    return files


@pytest.fixture
def import_study(tmp_path: Path) -> Callable[..., Study]:
    """``import_study(weights, values, more_yaml)``: a study of runs measured elsewhere."""

    def make(weights: pd.DataFrame, values: pd.DataFrame, more: str = "", name: str = "S") -> Study:
        files = tmp_path / f"{name}-mixtures.csv", tmp_path / f"{name}-metrics.csv"
        for frame, path in zip((weights, values), files, strict=True):
            frame.to_csv(path, index_label="run")
        study = create_for_import(tmp_path / name, imports.read_csvs(*files), list(files))
        with study.layout.config.open("a", encoding="utf-8") as stream:
            stream.write(more)
        return Study.open(study.layout.root)

    return make
