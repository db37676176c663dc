"""OLMo-core: the YAML of a ``SourceMixtureList``.

Source: ai2-olmo-core 3.0.0, ``olmo_core/data/source_mixture.py``: ``SourceMixtureConfig`` and
``SourceMixtureDatasetConfig.build``, which weighs tokens and raises when
``tokens · max_source_fraction · max_repetition_ratio`` of a source are fewer than asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from regmix.export import base
from regmix.export.base import Part, Parts, Read, Request, Unit, Written


class OlmoCore:
    """``SourceMixtureList.from_yaml`` reads it."""

    name: ClassVar[str] = "olmo-core"
    title: ClassVar[str] = "OLMo-core SourceMixtureList (YAML)"
    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "olmo-core"
    capped: ClassVar[bool] = True
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        """One source a domain."""
        sources = [
            {
                "source_name": name,
                "target_ratio": weight,
                "paths": list(request.places[name].paths),
                "max_repetition_ratio": _repetition(request, name, weight),
            }
            for name, weight in base.one_stage(request).weights.items()
        ]
        if request.dtype is None:
            return Written(base.yaml_text(request, {"sources": sources}))
        note = f"ids are {request.dtype}: give the trainer's dataset that dtype"
        return Written(base.yaml_text(request, {"sources": sources}, (note,)), notes=(note,))

    def read(self, text: str, where: Path) -> Parts:
        """Sources by their names."""
        raw = base.parse_yaml(text, where)
        sources = base.entries(base.required(raw, "sources", str(where)), f"{where}: sources")
        return {0: tuple(_part(s, f"{where}: sources[{i}]") for i, s in enumerate(sources))}


def _repetition(request: Request, name: str, weight: float) -> float:
    """The cap, which the loader wants to be 1 or more.

    It takes whole tokens of both what is there and what is asked, and without a tolerance: what is
    asked may be beyond the cap by as much as it may here.
    """
    limit = max(1.0, request.max_epochs)
    available = request.places[name].tokens
    if request.tokens is None or available is None:
        return limit
    wanted = int(request.tokens * weight)
    return limit if wanted <= int(available * limit) else (wanted + 0.5) / available


def _part(source: dict[str, object], at: str) -> Part:
    return Part(
        base.number(base.required(source, "target_ratio", at), f"{at}.target_ratio"),
        name=base.text(base.required(source, "source_name", at), f"{at}.source_name"),
        paths=base.paths(source, "paths", at),
    )
