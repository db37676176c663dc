"""Where everything in a study folder lives. Paths only: nothing here reads or writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

LONGEST_NAME = 255
"""Bytes that file systems allow the name of a file or folder."""


def folder_name(domain: str) -> str:
    """A domain's name as a folder name: its own alone, and never a path.

    Reversible where it fits. A longer one is its beginning and a hash; after ``%`` a quoted name
    has hex digits, so that no name of another domain looks like that.
    """
    name = quote(domain, safe=" +=@,-_.")
    name = "%2E" + name[1:] if name.startswith(".") else name
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:160]}%~{hashlib.sha256(domain.encode()).hexdigest()[:32]}"


class Piece(Protocol):
    """What one worker at a time is at, until one of two markers closes it; hashable."""

    @property
    def title(self) -> str:
        """What messages call it."""

    @property
    def root(self) -> Path:
        """A folder that is there as long as the piece is wanted."""

    @property
    def claims(self) -> Path:
        """Who is at it, and who tried: a numbered file an entry, see `regmix.claims`."""

    @property
    def done(self) -> Path:
        """There once it is finished."""

    @property
    def failed(self) -> Path:
        """There once it was given up, with the reason."""


@dataclass(frozen=True)
class RunLayout:
    """The files of one run; the worker that holds its claim is the only writer."""

    root: Path

    @property
    def run_id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.root.name

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"run {self.run_id}"

    @property
    def spec(self) -> Path:
        """What is to be trained: written once, before the run starts."""
        return self.root / "spec.yaml"

    @property
    def events(self) -> Path:
        """Append-only log, one JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of an unfinished run."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished model as a Hugging Face folder, where the run keeps it."""
        return self.root / "model"

    @property
    def state(self) -> Path:
        """The finished model's optimiser, where the run keeps it."""
        return self.root / "state"

    @property
    def before(self) -> Path:
        """The model as it was before the run diverged, where it did and keeps its model."""
        return self.root / "before"

    @property
    def evals(self) -> Path:
        """What the finished model was measured on, a file a task, and by document."""
        return self.root / "evals"

    @property
    def documents(self) -> Path:
        """Nats and bytes of every document that the finished model was measured on."""
        return self.evals / "documents.parquet"

    def asked(self, fingerprint: str, step: int | None = None) -> AskedLayout:
        """The files of the run on one task, at its end or after some step."""
        return AskedLayout(self, fingerprint, step)

    def eval_result(self, fingerprint: str) -> Path:
        """Metrics of one task at the end; its items are beside it, as parquet."""
        return self.asked(fingerprint).done

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, where the run is watched."""
        return self.root / "tensorboard"

    @property
    def done(self) -> Path:
        """Marker of a finished run."""
        return self.root / "DONE"

    @property
    def failed(self) -> Path:
        """Marker of a run that failed, with the reason."""
        return self.root / "FAILED"

    @property
    def claims(self) -> Path:
        """Who trains the run, and who tried: a numbered file an entry, see `regmix.claims`."""
        return self.root / "claims"


@dataclass(frozen=True)
class AskedLayout:
    """The files of one run on one task; claimed like a run by whoever asks it afterwards."""

    run: RunLayout
    fingerprint: str
    """The task's."""
    step: int | None = None
    """After which; at the run's end if not given."""

    @property
    def name(self) -> str:
        """Of its files."""
        return self.fingerprint if self.step is None else f"{self.fingerprint}@{self.step}"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"run {self.run.run_id} on task {self.name}"

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.run.root

    @property
    def claims(self) -> Path:
        """Who asks, and who tried."""
        return self.run.evals / "claims" / self.name

    @property
    def done(self) -> Path:
        """What it came to."""
        return self.run.evals / f"{self.name}.json"

    @property
    def failed(self) -> Path:
        """Why it came to nothing."""
        return self.run.evals / f"{self.name}.FAILED"


@dataclass(frozen=True)
class StudyLayout:
    """The files of one study."""

    root: Path

    @property
    def config(self) -> Path:
        """What the person wrote."""
        return self.root / "study.yaml"

    @property
    def tokens(self) -> Path:
        """Token shards and their manifest."""
        return self.root / "tokens"

    @property
    def tokens_claims(self) -> Path:
        """Who builds the shards, as of a run; no domain's folder begins with a dot."""
        return self.tokens / ".claims"

    @property
    def manifest(self) -> Path:
        """Tokens, bytes and documents of every domain and split."""
        return self.tokens / "manifest.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that made the shards."""
        return self.tokens / "tokenizer.json"

    @property
    def chat(self) -> Path:
        """Tokenised conversations, a folder for every set of sources, template and tokenizer."""
        return self.root / "chat"

    @property
    def evals(self) -> Path:
        """Tasks that runs are measured on, a folder for each one's questions."""
        return self.root / "evals"

    @property
    def tasks(self) -> Path:
        """Which of them the study's runs are measured on."""
        return self.evals / "tasks.json"

    @property
    def mixes(self) -> Path:
        """Mixture files."""
        return self.root / "mixes"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    @property
    def imports(self) -> Path:
        """Runs that were measured elsewhere, as they were handed in."""
        return self.root / "imports"

    @property
    def starts(self) -> Path:
        """Models from elsewhere that runs start from, by fingerprint."""
        return self.root / "starts"

    @property
    def recipes(self) -> Path:
        """What recipes came to, a folder each."""
        return self.root / "recipes"

    @property
    def store(self) -> Path:
        """The DuckDB store; derived, can be deleted."""
        return self.root / "metrics.duckdb"

    @property
    def fits(self) -> Path:
        """One folder a fit."""
        return self.root / "fits"

    @property
    def launches(self) -> Path:
        """What was submitted where, one file and one folder of logs a submission."""
        return self.root / "launch"

    @property
    def exports(self) -> Path:
        """Token shards in other trainers' layouts, one folder a layout."""
        return self.root / "exports"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report" / "index.html"

    def domain_tokens(self, domain: str) -> Path:
        """Folder of one domain's shards."""
        return self.tokens / folder_name(domain)

    def exported(self, layout: str) -> Path:
        """The mapping file beside the shards of one layout."""
        return self.exports / layout / "paths.yaml"

    def chat_data(self, fingerprint: str) -> Path:
        """Folder of one set of tokenised conversations."""
        return self.chat / fingerprint

    def run(self, run_id: str) -> RunLayout:
        """The files of one run."""
        return RunLayout(self.runs / run_id)

    def asked(
        self, runs: Sequence[str], tasks: Sequence[str], step: int | None = None
    ) -> list[AskedLayout]:
        """The files of some runs on some tasks, all of a run's before the next one's."""
        return [self.run(run_id).asked(task, step) for run_id in runs for task in tasks]

    def mixture(self, name: str) -> Path:
        """File of a named mixture."""
        return self.mixes / f"{name}.yaml"
