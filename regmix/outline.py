"""What a glance at a run's specification tells: its name and how much work it is.

Thousands of runs are looked at together, many times; reading and checking a whole specification
takes twenty times as long. The specifications of a swarm share the text of their model and plan, so
those are understood once. Nothing is checked here: whoever trains or fits reads the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from regmix import yaml_io
from regmix.errors import UserError
from regmix.runs import RunSpec
from regmix.sizes import ModelShape, TrainPlan

_BLOCK = re.compile(r"^(\w+):(.*\n(?:[ -].*\n)*)", re.MULTILINE)
_WORD = re.compile(r" [A-Za-z]\w*-[\w-]*\n")
"""Text that YAML can only read as text: no number, date or truth value has a hyphen in a word."""


@dataclass(frozen=True)
class Outline:
    """One run in brief."""

    run_id: str
    name: str
    role: str
    tokens: int
    tokens_per_step: int
    flops: float


def outline(folder: Path) -> Outline:
    """The outline of the run in a folder.

    Raises:
        UserError: the specification is missing or malformed.
    """
    path = folder / "spec.yaml"
    try:
        with open(path, encoding="utf-8") as stream:
            blocks = dict(_BLOCK.findall(stream.read()))
        tokens, per_step, flops = _work(blocks["model"], blocks["plan"], blocks["vocab_size"])
        name, role = _text(blocks["name"]), _text(blocks["role"])
    except (OSError, KeyError, TypeError, ValueError, UserError):
        return _whole(path)  # which says what is wrong, or reads what a person has laid out anew
    return Outline(folder.name, name, role, tokens, per_step, flops)


def _whole(path: Path) -> Outline:
    spec = RunSpec.load(path)
    return Outline(spec.run_id, spec.name, spec.role, spec.tokens, spec.tokens_per_step, spec.flops)


@cache
def _work(model: str, plan: str, vocab_size: str) -> tuple[int, int, float]:
    """Tokens of a run and of a step, and FLOPs; the texts are blocks of the file."""
    shape = ModelShape(**yaml_io.parse(model))
    settings = TrainPlan(**yaml_io.parse(plan))
    per_step = settings.batch * shape.context
    tokens = settings.steps * per_step
    return tokens, per_step, tokens * shape.flops_per_token(int(vocab_size))


def _text(value: str) -> str:
    return value.strip() if _WORD.fullmatch(value) else _scalar(value)


@cache
def _scalar(value: str) -> str:
    return str(yaml_io.parse(f"text:{value}")["text"])
