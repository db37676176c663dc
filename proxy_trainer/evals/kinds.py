"""The kinds of task: one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy_trainer.evals.generation import Generation
from proxy_trainer.evals.harness import Harness
from proxy_trainer.evals.multiple_choice import MultipleChoice
from proxy_trainer.evals.questions import TASK
from proxy_trainer.evals.task import Task
from proxy_trainer.evals.texts import Texts
from regmix.errors import unknown_name
from regmix.files import read_json
from regmix.tasks import AnyTask

_Kind = type[MultipleChoice] | type[Texts] | type[Generation] | type[Harness]
_KINDS: dict[str, _Kind] = {
    kind.kind: kind for kind in (MultipleChoice, Texts, Generation, Harness)
}


def read(described: AnyTask, folder: Path) -> Task:
    """A task out of the files that its description names.

    Args:
        folder: that relative paths of the description start at.

    Raises:
        UserError: file, line, key and value of the first row that is not as described.
    """
    make: Callable[[Any, Path], Task] = _KINDS[described.kind].read
    return make(described, folder)


def load(folder: Path) -> Task:
    """A task as :meth:`Task.save` wrote it.

    Raises:
        UserError: it is not there, was changed by hand, or is of a kind that is not known.
    """
    raw = read_json(folder / TASK)
    kind = raw.get("kind", MultipleChoice.kind)  # earlier versions knew no other
    if kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS, str(folder / TASK))
    return _KINDS[kind].load(folder)
