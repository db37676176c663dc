"""The names of formats and where they live; plug-ins register the entry point group below."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from regmix.errors import unknown_name
from regmix.export.base import Exporter

GROUP = "regmix.exporters"
"""Entry point group: ``name = "package.module:Class"``."""

BUILT_IN = {
    "olmo-core": "regmix.export.olmo_core:OlmoCore",
    "megatron": "regmix.export.megatron:DataPath",
    "megatron-args": "regmix.export.megatron:ArgumentsFile",
    "megatron-splits": "regmix.export.megatron:PerSplit",
    "nanotron": "regmix.export.nanotron:Nanotron",
    "litgpt": "regmix.export.litgpt:LitGPT",
    "streaming": "regmix.export.streaming:Streaming",
    "torchtitan": "regmix.export.torchtitan:Interleaved",
    "torchtitan-mix": "regmix.export.torchtitan:DocumentMix",
    "interleave": "regmix.export.interleave:Snippet",
    "interleave-json": "regmix.export.interleave:Json",
    "llama-factory": "regmix.export.llama_factory:LlamaFactory",
    "trl": "regmix.export.trl:Trl",
    "levanter": "regmix.export.levanter:Levanter",
    "axolotl": "regmix.export.axolotl:Axolotl",
}


def names() -> tuple[str, ...]:
    """Every format that can be asked for by name, plug-ins last."""
    return (*BUILT_IN, *(e.name for e in entry_points(group=GROUP) if e.name not in BUILT_IN))


@cache
def exporter(name: str, option: str = "--to") -> Exporter:
    """A format by name.

    Args:
        option: where the name was given, for the message.

    Raises:
        UserError: there is none of that name.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        kind: Any = getattr(import_module(module), attribute)
    else:
        matching = [e for e in entry_points(group=GROUP) if e.name == name]
        if not matching:
            raise unknown_name("format", name, names(), option)
        kind = matching[0].load()
    made: Exporter = kind()
    return made
