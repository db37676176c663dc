"""Tasks of lm-evaluation-harness (the extra ``eval``), with the names that our store has.

A task or group of its own, or one in a folder of YAML files; files that it names are read where
they lie, so that what is kept in a study is only which task it was. Its fingerprint is that of what
is asked and of how answers are judged: a task that has changed since is refused.

Metrics are named ``<task>/<metric>``, with a filter's name behind where it is not ``none``; those
of a group's members ``<group>/<member>/<metric>``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from proxy_trainer.evals import results, sampling
from proxy_trainer.evals.bpb import Reading
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.questions import TASK
from proxy_trainer.evals.results import SUBJECT, WHOLE, Mean, Result
from proxy_trainer.evals.task import Outcome, Progress
from regmix import direction
from regmix.errors import RegmixError, UserError
from regmix.files import read_json, to_json, write_text
from regmix.hashing import fingerprint
from regmix.tasks import HarnessTask, relative_to

SCORING = 1
"""Raised whenever our models would come to other figures."""
SHIPPED = Path(__file__).parent / "harness_tasks"
"""Example tasks."""
_SEED = 1234
"""Of examples that the harness draws; its own default."""
_DRAWS = 1000
"""Of its bootstraps, for metrics whose standard error has no formula."""
_PLACE = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")
"""Of a task's config: where its data lie, which says nothing of what they are."""
_QUIET = ("lm_eval", "datasets", "evaluate")


@dataclass(frozen=True)
class Harness:
    """A task or group of lm-evaluation-harness; :class:`proxy_trainer.evals.task.Task`."""

    name: str
    """What its metrics begin with."""
    called: str
    """What the harness calls it."""
    include: Path | None
    data: Path | None
    limit: int | None = None
    seed: int | None = None
    """Of the sample, if it is one."""
    kind: ClassVar[str] = "lm-eval"

    @classmethod
    def read(cls, described: HarnessTask, folder: Path) -> Self:
        """The task, with its data.

        Raises:
            UserError: the harness is not installed, does not know the task or cannot read it.
        """
        include, data = (
            None if given is None else relative_to(folder, given).resolve()
            for given in (described.include, described.data)
        )
        found = cls(described.name, described.called, include, data)
        found._loaded.tasks  # noqa: B018 (read now, while the person is there)
        return found

    @cached_property
    def _loaded(self) -> _Loaded:
        return _load(self)

    @property
    def fingerprint(self) -> str:
        """Of what is asked and how it is judged."""
        return self._loaded.fingerprint

    def sample(self, limit: int, seed: int) -> Self:
        """At most so many items; see :func:`proxy_trainer.evals.sampling.drawn`.

        Raises:
            UserError: fewer than two for every task of a group.
        """
        if limit >= self._loaded.available:
            return self
        found = replace(self, name=sampling.named(self.name, limit, seed), limit=limit, seed=seed)
        found._loaded.tasks  # noqa: B018 (too small a sample is told now)
        return found

    def save(self, folder: Path) -> None:
        """Write which task it is; its data stay where they are."""
        places = {key: None if path is None else str(path)
                  for key, path in (("include", self.include), ("data", self.data))}  # fmt: skip
        rest = {"name": self.name, "called": self.called, "limit": self.limit, "seed": self.seed}
        found = {"fingerprint": self.fingerprint, "kind": self.kind, **rest, **places}
        write_text(folder / TASK, to_json(found))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote, and the task's data anew.

        Raises:
            UserError: the task or the harness is not there any more, or has changed.
        """
        raw = read_json(folder / TASK)
        include, data = (None if raw[k] is None else Path(raw[k]) for k in ("include", "data"))
        found = cls(raw["name"], raw["called"], include, data, raw["limit"], raw["seed"])
        if found.fingerprint != folder.name:
            raise UserError(
                f"{folder}: lm-evaluation-harness now asks something else as '{found.called}' "
                f"({found.fingerprint}): its version, the task or its data have changed; run "
                "`regmix data build` again"
            )
        return found

    def ask(self, models: Models, progress: Progress | None = None) -> list[Outcome]:
        """Ask all models together, as far as the harness lets them."""
        from proxy_trainer.evals.harness_lm import MemberLM, Together

        together = Together(models, progress)
        with _quiet():
            found = [self._loaded.evaluated(MemberLM(together, k)) for k in range(models.members)]
        return [self._outcome(one, together.tokens_read) for one in found]

    def _outcome(self, found: Mapping[str, Any], tokens_read: int) -> Outcome:
        means = list(_means(self, found))
        broken = [mean.name for mean in means if not math.isfinite(mean.value)]
        if broken:
            return RegmixError(f"task '{self.name}': {broken[0]} is no finite number")
        counts = {
            "available": self._loaded.available,
            "asked": self._loaded.asked,
            "excluded": 0,
            "tokens_read": tokens_read,
        }
        return Result(
            task=self.name,
            fingerprint=self.fingerprint,
            means=means,
            items=_items(found),
            excluded={},
            counts=counts,
            notes=[*results.notes(self.name, counts, self.seed, {}), *_unclear(self.name, found)],
            seed=self.seed,
        )


@dataclass(frozen=True)
class _Loaded:
    """A task as the harness has it, its requests built."""

    content: Mapping[str, Any]
    """Tasks and groups, as the harness's manager gives them."""
    samples: dict[str, list[int]] | None
    available: int
    fingerprint: str

    @property
    def tasks(self) -> dict[str, Any]:
        """Tasks that are no groups, by name."""
        found: dict[str, Any] = self.content["tasks"]
        return found

    @property
    def asked(self) -> int:
        """Items that are asked."""
        return self.available if self.samples is None else sum(map(len, self.samples.values()))

    def evaluated(self, model: Any) -> Mapping[str, Any]:
        """What the harness finds of one model."""
        from lm_eval.evaluator import evaluate

        with _in_this_process():
            found: Mapping[str, Any] = evaluate(
                model, self.content, samples=self.samples, bootstrap_iters=_DRAWS
            )
        return found


@contextlib.contextmanager
def _in_this_process() -> Iterator[None]:
    """Keep the harness from forking for its bootstrap: with torch's threads that may never end."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _load(task: Harness) -> _Loaded:
    bars = io.StringIO()
    with _quiet(), contextlib.redirect_stderr(bars), _in(task.data):
        content = _content(task)
        docs = {name: list(own.eval_docs) for name, own in content["tasks"].items()}
        available = sum(map(len, docs.values()))
        samples = None
        if task.limit is not None:
            samples = _drawn(task, docs, task.limit)
        for name, own in content["tasks"].items():
            _build(own, None if samples is None else samples[name])
    return _Loaded(content, samples, available, _identity(task, content["tasks"]))


def _content(task: Harness) -> Mapping[str, Any]:
    """The harness's own tasks and groups.

    Raises:
        UserError: it is not installed, does not know the task, or cannot read it.
    """
    if task.include is not None and not task.include.is_dir():
        raise UserError(f"{task.include}: no such folder")
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as exc:
        raise UserError(
            f"task '{task.name}': lm-evaluation-harness is not installed ({exc}): "
            "pip install 'regmix[eval]'"
        ) from exc
    # Its own thousands of tasks are read only where they are needed: that takes half a minute.
    given = _manager(task.include, whole=False)
    if task.called in given.all_tasks:
        with contextlib.suppress(UserError):  # told below, if it is not that it uses one of those
            return _of(given, task)
    manager = _manager(task.include, whole=True)
    if task.called not in manager.all_tasks:
        raise UserError(
            f"task '{task.name}': lm-evaluation-harness has no task '{task.called}'"
            + ("" if task.include is None else f", nor is one in {task.include}")
        )
    return _of(manager, task)


@cache
def _manager(include: Path | None, *, whole: bool) -> Any:
    """Finds tasks in our folder, in one more, and in the harness's own if that is wanted."""
    from lm_eval.tasks import TaskManager

    paths = [SHIPPED] if include is None else [SHIPPED, include]
    return TaskManager(include_path=[str(path) for path in paths], include_defaults=whole)


def _of(manager: Any, task: Harness) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = manager.load([task.called])
    except Exception as exc:  # of any kind: loading reads data and runs the task's own code
        why = " ".join(str(exc).split())
        raise UserError(
            f"task '{task.name}': lm-evaluation-harness cannot load '{task.called}': "
            f"{type(exc).__name__}: {why}"
        ) from exc
    return found


def _drawn(task: Harness, docs: Mapping[str, list[Any]], limit: int) -> dict[str, list[int]]:
    items = [(name, _plain(doc)) for name, own in docs.items() for doc in own]
    places = [(name, i) for name, own in docs.items() for i in range(len(own))]
    found: dict[str, list[int]] = {name: [] for name in docs}
    for index in sampling.drawn(task.name, items, tuple(docs), limit, task.seed or 0):
        name, place = places[index]
        found[name].append(place)
    return found


def _build(task: Any, samples: list[int] | None) -> None:
    """Build a task's requests once: examples that are drawn for it are those of every model."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_SEED)
    task.build_all_requests(samples=samples, rank=0, world_size=1)
    requests = task.instances

    def again(**_: Any) -> None:
        for request in requests:
            request.resps, request.filtered_resps = [], {}

    task.build_all_requests = again


def _identity(task: Harness, tasks: Mapping[str, Any]) -> str:
    asked = []
    for name, own in sorted(tasks.items()):
        config = {k: v for k, v in own.dump_config().items() if k not in _PLACE}
        requests = [[r.request_type, r.doc_id, _plain(r.args)] for r in own.instances]
        docs = [_plain(r.doc) for r in own.instances]
        asked.append([name, str(own.VERSION), _plain(config), requests, docs])
    return fingerprint([SCORING, version("lm_eval"), task.name, task.called, asked])


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _means(task: Harness, found: Mapping[str, Any]) -> Iterator[Mean]:
    for name, entries in found["results"].items():
        before = task.name + _below(task.called, name)
        leaf = name in found["samples"] and name != task.called and bool(found["group_subtasks"])
        for key, value in entries.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = entries.get(f"{metric}_stderr,{chosen}")
            if not isinstance(error, int | float):
                error = _ratio_error(found, name, metric, chosen)
            yield Mean(
                f"{before}/{metric}" + ("" if chosen == "none" else f"/{chosen}"),
                SUBJECT if leaf else WHOLE,
                float(value),
                None if error is None else float(error),
                int(entries["sample_len"]),
            )


def _below(called: str, name: str) -> str:
    """Of a group's member: a slash and its name, without the group's."""
    if name == called:
        return ""
    for before in (f"{called}::", f"{called}_"):
        name = name.removeprefix(before)
    return "/" + name.replace("::", "/")


def _ratio_error(found: Mapping[str, Any], name: str, metric: str, chosen: str) -> float | None:
    """Of sums over sums, as bits per byte are, for which the harness has none."""
    rows = [r for r in found["samples"].get(name, ()) if r["filter"] == chosen and metric in r]
    values = [r[metric] for r in rows]
    if metric not in ("bpb", "bits_per_byte") or not all(
        isinstance(v, Sequence) and len(v) == 2 for v in values
    ):
        return None
    pairs = np.asarray(values, dtype=float)
    return Reading(metric, -pairs[None, :, 0], pairs[:, 1].astype(np.int64)).std_error(0)


def _items(found: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for name, own in found["samples"].items():
        for row in own:
            figures = {metric: _figure(row[metric]) for metric in row["metrics"]}
            rows.append({"task": name, "item": row["doc_id"], "filter": row["filter"], **figures})
    return pd.DataFrame(rows)


def _figure(value: Any) -> str | float:
    return float(value) if isinstance(value, bool | int | float | np.number) else _plain(value)


def _unclear(task: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Metrics whose name does not tell what the harness says: which way is better."""
    told = {m: h for own in found["higher_is_better"].values() for m, h in own.items()}
    for metric, higher in told.items():
        says = "higher" if higher else "lower"
        if higher is not None and direction.of_name(f"{task}/{metric}") != says:
            yield f"{task}: {metric} is better {says}, which its name does not tell"


@contextlib.contextmanager
def _in(folder: Path | None) -> Iterator[None]:
    """Relative paths in a task's YAML start at the folder."""
    if folder is None:
        yield
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    with contextlib.chdir(folder):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and bars of the harness for the length of the block."""
    levels = {name: logging.getLogger(name).level for name in _QUIET}
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
