"""Levanter and Marin: ``train_weights``, constant or by stages.

Source: marin (commit 0a8e3f64), ``lib/levanter/src/levanter/data/mixture.py`` (``MixtureDataset``:
in every block each dataset has ``int(weight · block_size)`` samples, the rest go to the largest)
and ``data/text/datasets.py`` (``LmDataConfig``: ``components``, ``train_weights`` as a mapping or
``[[step, mapping], …]``). Samples have one length: shares of tokens. What files are is seen by
their ends, a packed one's by the end before (``data/sharded_datasource.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from regmix.errors import UserError
from regmix.export import base, text_files
from regmix.export.base import Part, Parts, Read, Request, Unit, Written

_BLOCK, _LARGEST = 2048, 2**15
"""The trainer's own block, and the largest power of two that it takes."""
_ENOUGH = 100
"""Samples a block that the smallest domain should have: its share is then right to a percent."""


class Levanter:
    """The ``data`` section of a training configuration."""

    name: ClassVar[str] = "levanter"
    title: ClassVar[str] = "Levanter, Marin train_weights (YAML)"
    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "text"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = True

    def write(self, request: Request) -> Written:
        """Components with their sources, and the weights of every stage."""
        components: dict[str, Any] = {}
        for name, place in request.places.items():
            text_files.check_ends(name, (*place.paths, *place.valid), text_files.ROWS)
            components[name] = {
                "source": {
                    "type": "url",
                    "train_urls": list(place.paths),
                    "validation_urls": list(place.valid),
                },
                "format": {"type": "text", "text_key": place.text_field},
            }
        constant = len(request.stages) == 1
        weights = [[stage.start, dict(stage.weights)] for stage in request.stages]
        block, notes = _block(request)
        data = {
            "components": components,
            "train_weights": dict(request.weights) if constant else weights,
            "mixture_block_size": block,
        }
        return Written(base.yaml_text(request, {"data": data}, notes), notes=notes)

    def read(self, text: str, where: Path) -> Parts:
        """Weights by name, of every stage."""
        raw, at = base.parse_yaml(text, where), str(where)
        if "data" in raw:
            raw, at = base.mapping(raw["data"], f"{at}: data"), f"{at}: data"
        weights = base.required(raw, "train_weights", at)
        sources = _sources(raw.get("components", {}), f"{at}.components")
        if not isinstance(weights, list):
            return {0: _parts(weights, f"{at}.train_weights", sources)}
        found: dict[int, tuple[Part, ...]] = {}
        for i, stage in enumerate(weights):
            key = f"{at}.train_weights[{i}]"
            if not isinstance(stage, list) or len(stage) != 2 or not isinstance(stage[0], int):
                raise UserError(f"{key}: {stage!r} is not a step and its weights")
            if stage[0] in found:
                raise UserError(f"{key}: a stage begins at step {stage[0]} already")
            found[stage[0]] = _parts(stage[1], key, sources)
        return found


def _block(request: Request) -> tuple[int, tuple[str, ...]]:
    """A block in which the smallest share is not lost, and what is to be known of it."""
    shares = [(w, n, stage.start) for stage in request.stages for n, w in stage.weights.items()]
    least, domain, _ = min(shares)
    block = _BLOCK
    while block * least < _ENOUGH and block < _LARGEST:
        block *= 2
    if block * least < 1:
        raise UserError(
            f"weight of '{domain}' is {least:.3g}: in the trainer's largest block of {block:,} "
            "samples it would get none at all; raise it, or set it to 0"
        )
    notes = []
    for share, name, start in shares:
        if block * share < _ENOUGH:
            stage = f" from step {start} on" if start else ""
            got = int(block * share)
            notes.append(
                f"'{name}' gets {got} of {block:,} samples in a block{stage}: a share of "
                f"{got / block:.3g} for {share:.3g}"
            )
    if len(request.stages) > 1:
        notes.append(
            f"every stage's start, in samples, must be a multiple of the block of {block:,}: "
            "steps times batch size"
        )
    return block, tuple(notes)


def _sources(components: Any, at: str) -> dict[str, tuple[str, ...]]:
    """Training files by component, of those that name any."""
    found = {}
    for name, component in base.mapping(components, at).items():
        source = base.mapping(component, f"{at}.{name}").get("source")
        if source is not None:
            key = f"{at}.{name}.source"
            found[name] = base.paths(base.mapping(source, key), "train_urls", key)
    return found


def _parts(weights: Any, at: str, sources: Mapping[str, tuple[str, ...]]) -> tuple[Part, ...]:
    found: Mapping[str, Any] = base.mapping(weights, at)
    return tuple(
        Part(base.number(w, f"{at}.{n}"), name=n, paths=sources.get(n, ()))
        for n, w in found.items()
    )
