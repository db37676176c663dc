"""nanotron: ``data_stages`` with a Nanoset each.

Source: nanotron (commit 00708b80), ``src/nanotron/config/config.py``: ``DatasetStageArgs`` and
``NanosetDatasetsArgs`` (a weight a folder), of which one stage must start at step 1. Folders hold
tokens as datatrove writes them (``*.ds``); a Nanoset weighs samples of one length: shares of
tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from regmix.errors import UserError
from regmix.export import base
from regmix.export.base import Part, Parts, Read, Request, Stage, Unit, Written


class Nanotron:
    """The ``data_stages`` of a training configuration."""

    name: ClassVar[str] = "nanotron"
    title: ClassVar[str] = "nanotron data_stages (YAML)"
    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "own"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = True

    def write(self, request: Request) -> Written:
        """One stage for each of the request's."""
        stages = [_stage(request, i, stage) for i, stage in enumerate(request.stages)]
        return Written(base.yaml_text(request, {"data_stages": stages}))

    def read(self, text: str, where: Path) -> Parts:
        """Folders and weights of every stage."""
        at = f"{where}: data_stages"
        raw = base.required(base.parse_yaml(text, where), "data_stages", str(where))
        found: dict[int, tuple[Part, ...]] = {}
        for i, stage in enumerate(base.entries(raw, at)):
            key = f"{at}[{i}]"
            start = base.required(stage, "start_training_step", key)
            if isinstance(start, bool) or not isinstance(start, int) or start < 1:
                raise UserError(f"{key}.start_training_step: {start!r} is not a step from 1 on")
            if start - 1 in found:
                raise UserError(f"{key}: a stage begins at training step {start} already")
            data = base.mapping(base.required(stage, "data", key), f"{key}.data")
            dataset = base.required(data, "dataset", f"{key}.data")
            found[start - 1] = _parts(base.mapping(dataset, f"{key}.data.dataset"), key)
        return found


def _stage(request: Request, index: int, stage: Stage) -> dict[str, Any]:
    folders = []
    for name in stage.weights:
        paths = request.places[name].paths
        if len(paths) != 1:
            raise UserError(
                f"domain '{name}' has {len(paths)} paths; a Nanoset weighs one folder a domain"
            )
        folders.append(paths[0])
    dataset = {"dataset_folder": folders, "dataset_weights": list(stage.weights.values())}
    return {
        "name": request.name if index == 0 else f"{request.name} from step {stage.start + 1}",
        "start_training_step": stage.start + 1,
        "data": {"seed": request.seed, "num_loading_workers": 1, "dataset": dataset},
    }


def _parts(dataset: dict[str, Any], key: str) -> tuple[Part, ...]:
    at = f"{key}.data.dataset"
    folders = base.texts(base.required(dataset, "dataset_folder", at), f"{at}.dataset_folder")
    if isinstance(dataset["dataset_folder"], str):
        return (Part(1.0, paths=folders),)
    weights = base.required(dataset, "dataset_weights", at)
    if not isinstance(weights, list) or len(weights) != len(folders):
        raise UserError(f"{at}: dataset_weights must be a list of {len(folders)}, one a folder")
    return tuple(
        Part(base.number(w, f"{at}.dataset_weights[{i}]"), paths=(folder,))
        for i, (folder, w) in enumerate(zip(folders, weights, strict=True))
    )
