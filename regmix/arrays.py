"""Which runs can be trained together as one array: those that differ in little but their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from regmix.hashing import fingerprint
from regmix.runs import RunSpec


def array_key(spec: RunSpec) -> str:
    """What the members of an array share: model, vocabulary, data and all of the plan but lr."""
    plan = asdict(spec.plan)
    del plan["lr"]
    text = [spec.vocab_size, spec.data, spec.chat, spec.held_out, list(spec.tasks)]
    text += [spec.tasks_at] if spec.tasks else []
    return fingerprint([asdict(spec.model), plan, *text, spec.numerics])


def count_arrays(specs: Iterable[RunSpec], members: int) -> int:
    """How many arrays some runs make, ``members`` at most in each."""
    sizes = Counter(array_key(spec) for spec in specs).values()
    return sum(-(-size // members) for size in sizes)
