"""Megatron-LM and NeMo: weights and prefixes, flat, for the three places that take them.

Source: megatron-core 0.16.1, ``megatron/core/datasets/utils.py``: ``get_blend_from_list`` takes
weights and prefixes in turns and divides by their sum; ``get_blend_and_blend_per_split`` of
Megatron-LM's ``megatron/training/utils.py`` splits a ``--data-args-path`` file at white space and
takes ``train``, ``valid`` and ``test`` of a ``--per-split-data-args-path`` file, all needed. A
blend of samples of one length: shares of tokens. NeMo takes the same flat list (``paths``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from regmix.errors import UserError
from regmix.export import base
from regmix.export.base import Part, Parts, Read, Request, Unit, Written
from regmix.files import to_json

_ARRAY = re.compile(r"^DATA_PATH=\((.*?)^\)", re.DOTALL | re.MULTILINE)


class _Megatron:
    """What the three have in common."""

    unit: ClassVar[Unit] = Unit.TOKENS
    reads: ClassVar[Read] = "megatron"
    capped: ClassVar[bool] = False
    staged: ClassVar[bool] = False


class DataPath(_Megatron):
    """A shell array for ``--data-path``."""

    name: ClassVar[str] = "megatron"
    title: ClassVar[str] = "Megatron-LM --data-path (shell array)"

    def write(self, request: Request) -> Written:
        """``source`` it, then ``"${DATA_PATH[@]}"`` on the command line."""
        pairs = _pairs(request)
        lines = [f"    {shlex.quote(w)} {shlex.quote(p)}\n" for w, p in pairs]
        return Written(f"{base.comment(request)}DATA_PATH=(\n    --data-path\n{''.join(lines)})\n")

    def read(self, text: str, where: Path) -> Parts:
        """The array of a file that :meth:`write` gave, or plain ``--data-path`` arguments."""
        found = _ARRAY.search(text)
        try:
            words = shlex.split(found[1] if found else text, comments=True)
        except ValueError as exc:
            raise UserError(f"{where}: not shell words ({exc})") from exc
        if "--data-path" in words:
            words = words[words.index("--data-path") + 1 :]
        end = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        return {0: _blend(words[:end], str(where))}


class ArgumentsFile(_Megatron):
    """Words for ``--data-args-path``; the file cannot hold a note."""

    name: ClassVar[str] = "megatron-args"
    title: ClassVar[str] = "Megatron-LM --data-args-path (file)"

    def write(self, request: Request) -> Written:
        """A weight and a prefix a line."""
        pairs = _pairs(request)
        for _, prefix in pairs:
            if len(prefix.split()) != 1:
                raise UserError(
                    f"'{prefix}': --data-args-path splits its file at white space, so a prefix can "
                    "have none; move the data, or export to 'megatron' or 'megatron-splits'"
                )
        return Written("".join(f"{w} {p}\n" for w, p in pairs))

    def read(self, text: str, where: Path) -> Parts:
        """All words of the file."""
        return {0: _blend(text.split(), str(where))}


class PerSplit(_Megatron):
    """JSON for ``--per-split-data-args-path``."""

    name: ClassVar[str] = "megatron-splits"
    title: ClassVar[str] = "Megatron-LM --per-split-data-args-path (JSON)"

    def write(self, request: Request) -> Written:
        """The mixture for every split; validation data stand for ``test`` too."""
        for name in request.weights:
            if not request.places[name].valid:
                raise UserError(
                    f"domain '{name}' has no held-out data, and the file needs all of train, valid "
                    "and test; give 'valid' for it in the mapping file, or export to 'megatron'"
                )
        held_out = _flat(_pairs(request, valid=True))
        note = "valid and test are the same held-out data, in the mixture's shares"
        value = {
            "notes": [*request.notes, note],  # the trainer looks at the three splits alone
            "train": _flat(_pairs(request)),
            "valid": held_out,
            "test": held_out,
        }
        return Written(to_json(value), notes=(note,))

    def read(self, text: str, where: Path) -> Parts:
        """What the training split weighs."""
        raw = base.required(base.parse_json(text, where), "train", str(where))
        if isinstance(raw, list):  # weights may be numbers there
            raw = [repr(w) if type(w) in (int, float) else w for w in raw]
        words = raw.split() if isinstance(raw, str) else base.texts(raw, f"{where}: train")
        return {0: _blend(words, f"{where}: train")}


def _pairs(request: Request, *, valid: bool = False) -> list[tuple[str, str]]:
    """Weight and prefix, both as text; a domain of several prefixes is a corpus of its own."""
    weights = base.one_stage(request).weights
    found = []
    for name, weight in weights.items():
        prefixes = request.places[name].valid if valid else request.places[name].paths
        if len(prefixes) != 1:
            raise UserError(
                f"domain '{name}' has {len(prefixes)} prefixes, and a weight is of one: nothing "
                "says how the domain's share falls to each; merge them, or make them domains"
            )
        found.append((repr(weight), _prefix(prefixes[0])))
    return found


def _prefix(path: str) -> str:
    """The trainer appends ``.bin`` and ``.idx`` itself."""
    return path.removesuffix(".bin").removesuffix(".idx")


def _flat(pairs: list[tuple[str, str]]) -> list[str]:
    return [word for pair in pairs for word in pair]


def _blend(words: Sequence[str], where: str) -> tuple[Part, ...]:
    """Weights and prefixes in turns."""
    if not words or len(words) % 2:
        raise UserError(
            f"{where}: {len(words)} words; expected a weight and a prefix in turns (without "
            "weights every prefix counts by its size, which is no mixture)"
        )
    return tuple(
        Part(base.number(words[i], f"{where}: word {i + 1}"), paths=(words[i + 1],))
        for i in range(0, len(words), 2)
    )
