"""MosaicML Streaming and LLM Foundry: ``streams`` with proportions.

Source: mosaicml-streaming 0.13.0, ``streaming/base/stream.py``: ``proportion`` is a share of the
samples of an epoch. Rows that were packed to one length before they were written make it a share of
tokens. LLM Foundry takes the mapping under ``train_loader.dataset.streams``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from regmix.errors import UserError
from regmix.export import base
from regmix.export.base import Part, Parts, Read, Request, Unit, Written

_NOTE = "proportions are of rows: shares of tokens only if rows are packed to one length"


class Streaming:
    """A stream a domain."""

    name: ClassVar[str] = "streaming"
    title: ClassVar[str] = "MosaicML Streaming, LLM Foundry streams (YAML)"
    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "own"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False

    def write(self, request: Request) -> Written:
        """``train_loader.dataset.streams``."""
        streams = {}
        for name, weight in base.one_stage(request).weights.items():
            paths = request.places[name].paths
            if len(paths) != 1:
                raise UserError(f"domain '{name}' has {len(paths)} paths; a stream is one folder")
            key = "remote" if "://" in paths[0] else "local"
            streams[name] = {key: paths[0], "proportion": weight}
        dataset = {"streams": streams, "shuffle_seed": request.seed}
        value = {"train_loader": {"dataset": dataset}}
        return Written(base.yaml_text(request, value, (_NOTE,)), notes=(_NOTE,))

    def read(self, text: str, where: Path) -> Parts:
        """Streams by their names; the mapping may stand alone or where LLM Foundry has it."""
        raw, at = base.parse_yaml(text, where), str(where)
        for key in ("train_loader", "dataset"):
            if key in raw:
                raw, at = base.mapping(raw[key], f"{at}: {key}"), f"{at}: {key}"
        found = base.required(raw, "streams", at)
        streams = base.mapping(found, f"{at}: streams")
        return {0: tuple(_part(n, s, f"{at}: streams.{n}") for n, s in streams.items())}


def _part(name: str, stream: Any, at: str) -> Part:
    known = base.mapping(stream, at)
    for key in ("repeat", "choose"):
        if key in known:
            raise UserError(
                f"{at}: has '{key}', which depends on how large the stream is; only 'proportion' "
                "is a mixture's weight"
            )
    return Part(
        base.number(base.required(known, "proportion", at), f"{at}.proportion"),
        name=name,
        paths=base.paths(known, "remote", at) or base.paths(known, "local", at),
    )
