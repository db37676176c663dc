"""The tasks that a study's runs are measured on: taken in from files, kept in the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from proxy_trainer.evals import kinds
from proxy_trainer.evals.task import Task
from regmix import strict
from regmix.config import EvaluateConfig, load_study
from regmix.errors import UserError, unknown_name
from regmix.files import write_json
from regmix.layout import StudyLayout
from regmix.pages import page
from regmix.tasks import AnyTask, HarnessTask, TasksFile, relative_to, settings

_SHIPPED = Path(__file__).parent / "tasks"
HARNESS = "lm:"
"""Before the name of a task of lm-evaluation-harness."""


def shipped() -> tuple[str, ...]:
    """Names of the tasks that need no file to describe them."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def read(
    names: Sequence[str],
    *,
    folder: Path,
    data: Path | None,
    where: str,
    include: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Task]:
    """Tasks by name or file, or by the name that lm-evaluation-harness has, after ``lm:``.

    Args:
        folder: that files are relative to.
        data: of the questions of tasks that are named.
        include: folder of more tasks of lm-evaluation-harness.
        where: what asks for them, for messages.
        limit, seed: of a subsample.

    Raises:
        UserError: no such task or file, something wrong in one, or a name that two tasks have.
    """
    found: list[Task] = []
    places: dict[str, str] = {}
    for name in names:
        for described, root, task in _tasks(name, folder, data, include, where):
            whole = kinds.read(task, root)
            own = whole if limit is None else whole.sample(limit, seed)
            # A sample has another name, which another task may have been given.
            for taken in {whole.name, own.name}:
                if taken in places:
                    raise UserError(
                        f"{described}: task '{taken}' is in {places[taken]} too; metrics of two "
                        "tasks of one name could not be told apart"
                    )
            places |= dict.fromkeys((whole.name, own.name), str(described))
            found.append(own)
    return found


def _tasks(
    name: str, folder: Path, data: Path | None, include: Path | None, where: str
) -> list[tuple[Path | str, Path, AnyTask]]:
    """Tasks, each with the file that describes it and the folder that its files are relative to."""
    if name.startswith(HARNESS):
        given = {"include": include, "data": data}
        own = {key: str(path.resolve()) for key, path in given.items() if path is not None}
        try:
            task = HarnessTask(kind="lm-eval", name=name.removeprefix(HARNESS), **own)
        except ValidationError as exc:
            raise UserError(f"{where}: {name}: {exc.errors()[0]['msg']}") from exc
        return [(where, folder, task)]
    described, root = _described(name, folder, data, where)
    return [(described, root, task) for task in strict.load(described, TasksFile).tasks]


def _described(name: str, folder: Path, data: Path | None, where: str) -> tuple[Path, Path]:
    """The file that describes a task, and the folder that its files are relative to."""
    if name.endswith((".yaml", ".yml")):
        path = relative_to(folder, name)
        return path, path.parent
    if name not in shipped():
        raise unknown_name("task", name, (*shipped(), "a YAML file", f"{HARNESS}NAME"), where)
    if data is None:
        raise UserError(
            f"{where}: where the questions of '{name}' are is not said; give the folder of its "
            "files (evaluate.data in study.yaml, --data of the command)"
        )
    return _SHIPPED / f"{name}.yaml", data


@dataclass(frozen=True)
class Asked:
    """What a command asks for; what it leaves open is as the study says, if there is one."""

    tasks: tuple[str, ...]
    data: Path | None
    limit: int | None
    seed: int | None
    include: Path | None = None

    def read(self, layout: StudyLayout | None) -> list[Task]:
        """The tasks.

        Raises:
            UserError: as :func:`read`; or none is asked for.
        """
        own = EvaluateConfig() if layout is None else load_study(layout.config).evaluate
        root = Path() if layout is None else layout.root
        data = self.data
        if data is None and own.data is not None:
            data = relative_to(root, own.data)
        if self.tasks:
            return read(
                self.tasks,
                folder=Path(),
                data=data,
                where="--tasks",
                include=self.include,
                limit=self.limit,
                seed=self.seed or 0,
            )
        if not own.tasks:
            study = "" if layout is None else ", and the study has none (evaluate.tasks)"
            raise UserError(
                f"--tasks: none is asked for{study}; there are {', '.join(shipped())}, files of "
                f"your own, and {HARNESS}NAME of lm-evaluation-harness ({page('EVALUATION')})"
            )
        return read(
            own.tasks,
            folder=root,
            data=data,
            where=f"{root / 'study.yaml'}: evaluate",
            limit=own.limit if self.limit is None else self.limit,
            seed=own.seed if self.seed is None else self.seed,
        )


def take_in(layout: StudyLayout, config: EvaluateConfig) -> None:
    """Copy what a study's runs are measured on into it.

    What earlier settings asked stays, for the runs that were planned with them.

    Raises:
        UserError: as :func:`read`.
    """
    if not config.tasks:
        return
    data = None if config.data is None else relative_to(layout.root, config.data)
    where = f"{layout.config}: evaluate"
    found = read(
        config.tasks,
        folder=layout.root,
        data=data,
        where=where,
        limit=config.limit,
        seed=config.seed,
    )
    for task in found:
        task.save(layout.evals / task.fingerprint)
    listed = [{"name": task.name, "fingerprint": task.fingerprint} for task in found]
    write_json(layout.tasks, {"settings": settings(config), "tasks": listed})


def load(layout: StudyLayout, fingerprints: Sequence[str]) -> list[Task]:
    """Tasks that were taken in.

    Raises:
        UserError: one is not there, or was changed by hand.
    """
    return [kinds.load(layout.evals / fingerprint) for fingerprint in fingerprints]
