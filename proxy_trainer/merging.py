"""Averages of models: their weights, tensor by tensor (model soups, arXiv 2203.05482)."""

from __future__ import annotations

import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from proxy_trainer.data.chat.shards import ChatManifest
from proxy_trainer.data.sampler import Realised
from proxy_trainer.environment import HALF, PRECISION, describe
from proxy_trainer.evals import bpb, documents
from proxy_trainer.evals.bpb import EvalSet, Reading, load_eval_sets
from proxy_trainer.evals.chat import load_chat_sets
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.events import EventLog
from proxy_trainer.launch.claims import Claim, Claimant
from proxy_trainer.models import card as cards
from proxy_trainer.models import hf
from proxy_trainer.models.folder import Weights, load_folder
from proxy_trainer.models.verify import Verification, beyond_memory, verify
from regmix import claims
from regmix.errors import RegmixError, UserError
from regmix.files import disk_errors, read_json, to_json, write_new, write_text
from regmix.layout import RunLayout, StudyLayout
from regmix.manifest import DataManifest
from regmix.records import RunRecord
from regmix.runs import RunSpec

_NEEDED = ("config.json", "tokenizer.json")
_TAKEN = (
    *_NEEDED, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt",
    "tokenizer.model",
)  # fmt: skip
"""Files of a model that go with its average: those that say how it is used, the same in all."""
_NOT_COMPARED = ("transformers_version", "_name_or_path")
"""Keys of such files that say by what they were written."""
_CLAIM_SECONDS = 120.0
"""Whoever makes an average and is silent for so long has lost it to others."""

Measure = Callable[[Weights], Mapping[str, float]]


class Average(Mapping[str, Tensor]):
    """The weighted mean of some models; each tensor is computed when it is asked for."""

    def __init__(self, folders: Sequence[Path], weights: Sequence[float] | None = None) -> None:
        """Only headers are read.

        Args:
            folders: Hugging Face folders of one architecture.
            weights: what each counts for, normalised to their sum; all the same if not given.

        Raises:
            UserError: no folders, weights that are none, or models that are not alike.
        """
        if not folders:
            raise UserError("merge: no model is given")
        self.shares = _shares(folders, weights)
        found = [load_folder(folder) for folder in folders]
        self.shape = found[0][0]
        self._models = [model for _, model in found]
        for model in self._models[1:]:
            _check_alike(self._models[0], model)
        self.vocab_size = self._models[0].vocab_size
        self.elements = {name: math.prod(s) for name, s in self._models[0].sizes.items()}

    def __getitem__(self, name: str) -> Tensor:
        """A tensor in single precision, summed in double."""
        pairs = zip(self._models, self.shares, strict=True)
        total = torch.zeros(self._models[0].sizes[name], dtype=torch.float64)
        for model, share in pairs:
            total += model.tensor(name).double() * share
        return total.to(torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.elements)

    def __len__(self) -> int:
        return len(self.elements)


def merge_folders(
    folders: Sequence[Path],
    output: Path,
    weights: Sequence[float] | None = None,
    *,
    name: str = "Average",
    names: Sequence[str] | None = None,
    measure: Measure | None = None,
    origin: cards.Origin | None = None,
    shard_bytes: int = hf.SHARD_BYTES,
    ready: Callable[[], object] = lambda: None,
) -> Mapping[str, float] | None:
    """Write the average of some Hugging Face folders as another, whole or not at all.

    Args:
        name: of the average, for its card.
        names: of the models, for the card; their folders' if not given.
        measure: what gives the card's metrics.
        origin: how the first of them came about, for the card.
        shard_bytes: of weights a file, and no more are held at once, one tensor apart.
        ready: called as the folder is about to get its name; not so if it raises.

    Returns:
        What ``measure`` gave.

    Raises:
        UserError: as :class:`Average`; or the output is there already, or configurations or
            tokenizers differ.
        RegmixError: transformers computes something else from what was written.
    """
    _check_free(output)
    for folder in folders:
        _check_used_alike(folders[0], folder)
    merged = Average(folders, weights)
    called = names or ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.tmp-"))
    try:
        made.chmod(0o755)
        with disk_errors(output):
            for file in _TAKEN:
                if (folders[0] / file).exists():
                    shutil.copyfile(folders[0] / file, made / file)
        sizes = {key: 4 * elements for key, elements in merged.elements.items()}
        hf.write_weights(made, sizes, merged.__getitem__, shard_bytes)
        checked = _verified(made, merged)
        metrics = None if measure is None else measure(load_folder(made)[1])
        parts = list(zip(called, merged.shares, strict=True))
        card = cards.Average(name, parts, metrics, origin)
        text = cards.average_text(merged.shape, merged.vocab_size, checked, card)
        write_text(made / "README.md", text)
        ready()
        _check_free(output)
        with disk_errors(output):
            made.rename(output)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return metrics


def carry_out(study: StudyLayout, spec: RunSpec) -> None:
    """Make and measure the average that a run stands for; nothing if it is done.

    Raises:
        UserError: a model that it averages is not there.
        RegmixError: another command is at it.
    """
    run = study.run(spec.run_id)
    if run.done.exists():
        return
    worker = f"{socket.gethostname()}.{os.getpid()}"
    with Claimant(study.runs, worker, _CLAIM_SECONDS).at_work() as claimant:
        claim = claimant.take(run)
        if claim is not None:
            try:
                _make(study, spec, run, claim)
            finally:
                claimant.release_all("done" if run.done.exists() else "broken off")
        elif not run.done.exists():
            holder = claims.last(run.claims)
            who = "another command" if holder is None else holder.worker
            raise RegmixError(f"run {run.run_id}: being averaged by {who}; run again afterwards")


def _make(study: StudyLayout, spec: RunSpec, run: RunLayout, claim: Claim) -> None:
    began = time.perf_counter()
    for left in (run.model, *run.root.glob(f".{run.model.name}.tmp-*")):  # of a process killed
        shutil.rmtree(left, ignore_errors=True)
    readings: list[Reading] = []
    device = torch.device("cpu")

    def measure(weights: Weights) -> Mapping[str, float]:
        nonlocal device
        half = any(_precision(study.run(own)) == HALF for own in spec.merge)
        model = WholeModel(weights, half_precision=half)
        device = model.device
        readings.extend(bpb.read(model, _sets(study, spec)))
        return {r.name: r.value(0) for r in readings}

    merge_folders(
        [study.run(own).model for own in spec.merge],
        run.model,
        name=spec.name,
        names=spec.merge,
        measure=measure,
        origin=_origin(study, spec),
        ready=claim.check,
    )
    claim.check()
    documents.save(run, readings, 0)
    with EventLog(run.events) as log:
        log.write("start", step=0, members=1, environment=describe(device))
        for reading in readings:
            log.write("metric", step=0, tokens=0, **reading.fields(0))
    result = {
        "run_id": spec.run_id,
        "steps": 0,
        "tokens": 0,
        "flops": 0.0,
        "seconds": round(time.perf_counter() - began, 3),
        "members": 1,
        "skipped_steps": 0,
        "metrics": {r.name: r.value(0) for r in readings},
        "domains": [],
        "environment": describe(device),
    }
    write_new(run.done, to_json(result))


def _origin(study: StudyLayout, spec: RunSpec) -> cards.Origin:
    """How the first of the models that a run averages came about."""
    run = study.run(spec.merge[0])
    found = RunRecord(run, RunSpec.load(run.spec)).result()
    return cards.Origin(
        spec,
        DataManifest.load(study.manifest),
        found["metrics"],
        [Realised(*(own[f.name] for f in fields(Realised))) for own in found["domains"]],
        found["environment"],
        ChatManifest.load(study.chat_data(spec.chat)) if spec.chat else None,
    )


def _sets(study: StudyLayout, spec: RunSpec) -> list[EvalSet]:
    """What the runs that are averaged were measured on."""
    manifest = DataManifest.load(study.manifest)
    sets = load_eval_sets(
        study, manifest, context=spec.model.context, max_bytes=spec.plan.eval_bytes
    )
    if spec.held_out:
        sets += load_chat_sets(study, spec.held_out, spec.plan.eval_bytes)
    return sets


def _precision(run: RunLayout) -> str | None:
    """What a run was measured in, if its processes say it."""
    found: str | None = read_json(run.done)["environment"].get(PRECISION)
    return found


def _verified(folder: Path, merged: Average) -> Verification:
    """What was written, as transformers loads it, beside the average computed anew."""
    too_large = beyond_memory(sum(merged.elements.values()))
    if too_large is not None:
        return too_large
    table = dict(merged)
    table.setdefault("lm_head.weight", table["model.embed_tokens.weight"])
    return verify(folder, table, merged.shape)


def _check_free(output: Path) -> None:
    if output.exists():
        raise UserError(f"{output}: is there already; choose another folder or delete it")


def _shares(folders: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    given = [1.0] * len(folders) if weights is None else list(weights)
    if len(given) != len(folders):
        raise UserError(f"merge: {len(given)} weights for {len(folders)} models")
    if not all(math.isfinite(w) and w >= 0 for w in given) or not sum(given):
        raise UserError(f"merge: weights {given}; they must be 0 or more, and not all 0")
    return [w / math.fsum(given) for w in given]


def _check_alike(first: Weights, other: Weights) -> None:
    for name in sorted(first.sizes.keys() ^ other.sizes.keys()):
        lacks = other if name in first.sizes else first
        raise UserError(
            f"{lacks.folder}: has no '{name}'; only models of one architecture are averaged"
        )
    for name, size in other.sizes.items():
        if size != first.sizes[name]:
            raise UserError(
                f"{other.folder}: '{name}' has shape {size}, in {first.folder} "
                f"{first.sizes[name]}; only models of one architecture are averaged"
            )


def _check_used_alike(first: Path, other: Path) -> None:
    """Refuse models whose configurations, tokenizers, templates or generation differ."""
    for file in _TAKEN:
        ours, theirs = first / file, other / file
        for path in (ours, theirs):
            if not path.exists() and (file in _NEEDED or ours.exists() or theirs.exists()):
                raise UserError(
                    f"{path}: not there; models of one configuration are averaged, and each is a "
                    "whole Hugging Face folder"
                )
        if not ours.exists():
            continue
        if not file.endswith(".json"):
            if ours.read_bytes() != theirs.read_bytes():
                raise UserError(f"{theirs}: differs from {ours}")
            continue
        one, two = read_json(ours), read_json(theirs)
        for key in sorted({*one, *two} - {*_NOT_COMPARED}):
            if one.get(key) != two.get(key):
                raise UserError(f"{theirs}: '{key}' differs from that of {ours}")
