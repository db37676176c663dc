"""Averages of models: their weights, tensor by tensor (model soups, arXiv 2203.05482)."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from proxy_trainer.checkpoint import write_tensors
from proxy_trainer.environment import describe
from proxy_trainer.evals import bpb, documents
from proxy_trainer.evals.bpb import load_eval_sets
from proxy_trainer.evals.chat import load_chat_sets
from proxy_trainer.evals.whole import WholeModel
from proxy_trainer.events import EventLog
from proxy_trainer.models.folder import load_folder
from regmix.errors import UserError
from regmix.files import read_json, to_json, write_new
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest
from regmix.runs import RunSpec

_OWN = ("config.json", "tokenizer.json")
"""Files that have to be the same in all folders."""


def average(folders: Sequence[Path], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The weighted mean of some models' tensors, summed in double precision.

    Args:
        folders: Hugging Face folders of one architecture.
        weights: what each counts for, normalised to their sum; all the same if not given.

    Raises:
        UserError: no folders, weights that are none, or models that are not alike.
    """
    if not folders:
        raise UserError("merge: no model is given")
    shares = _shares(folders, weights)
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for folder, share in zip(folders, shares, strict=True):
        found = dict(load_folder(folder)[1])
        _check_alike(folders[0], total or found, folder, found)
        for name, tensor in found.items():
            kinds.setdefault(name, tensor.dtype)
            own = tensor.double() * share
            total[name] = total[name] + own if name in total else own
    return {name: tensor.to(kinds[name]) for name, tensor in total.items()}


def merge_folders(
    folders: Sequence[Path], output: Path, weights: Sequence[float] | None = None
) -> None:
    """Write the average of some Hugging Face folders as another.

    Raises:
        UserError: as :func:`average`; or the output is there already, or configurations or
            tokenizers differ.
    """
    if output.exists():
        raise UserError(f"{output}: is there already; choose another folder or delete it")
    for name in _OWN:
        for folder in folders[1:]:
            if _content(folder / name) != _content(folders[0] / name):
                raise UserError(f"{folder / name}: differs from {folders[0] / name}")
    merged = average(folders, weights)
    shutil.copytree(folders[0], output, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
    write_tensors(output / "model.safetensors", merged, {"format": "pt"})


def carry_out(study: StudyLayout, spec: RunSpec) -> None:
    """Make and measure the average that a run stands for; nothing if it is done.

    Raises:
        UserError: a model that it averages is not there.
    """
    run = study.run(spec.run_id)
    if run.done.exists():
        return
    began = time.perf_counter()
    folders = [study.run(own).model for own in spec.merge]
    shutil.rmtree(run.model, ignore_errors=True)
    merge_folders(folders, run.model)
    manifest = DataManifest.load(study.manifest)
    merged = WholeModel(load_folder(run.model, spec.model.context)[1])
    sets = load_eval_sets(
        study, manifest, context=spec.model.context, max_bytes=spec.plan.eval_bytes
    )
    if spec.held_out:
        sets += load_chat_sets(study, spec.held_out, spec.plan.eval_bytes)
    readings = bpb.read(merged, sets)
    metrics = {r.name: r.value(0) for r in readings}
    documents.save(run, readings, 0)
    with EventLog(run.events) as log:
        log.write("start", step=0, members=1, environment=describe(torch.device("cpu")))
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
        "metrics": metrics,
        "domains": [],
        "environment": describe(torch.device("cpu")),
    }
    write_new(run.done, to_json(result))


def _shares(folders: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    given = [1.0] * len(folders) if weights is None else list(weights)
    if len(given) != len(folders):
        raise UserError(f"merge: {len(given)} weights for {len(folders)} models")
    if not all(math.isfinite(w) and w >= 0 for w in given) or not sum(given):
        raise UserError(f"merge: weights {given}; they must be 0 or more, and not all 0")
    return [w / math.fsum(given) for w in given]


def _check_alike(
    first: Path, expected: dict[str, Tensor], folder: Path, found: dict[str, Tensor]
) -> None:
    for name in expected.keys() ^ found.keys():
        lacks = folder if name in expected else first
        raise UserError(f"{lacks}: has no '{name}'; only models of one architecture are averaged")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{folder}: '{name}' has shape {tuple(tensor.shape)}, in {first} "
                f"{tuple(expected[name].shape)}; only models of one architecture are averaged"
            )


def _content(path: Path) -> dict[str, object]:
    if not path.exists():
        raise UserError(f"{path}: not there; is its folder a Hugging Face model?")
    found: dict[str, object] = read_json(path)
    return found
