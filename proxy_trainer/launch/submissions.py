"""What was submitted: kept in the study, so that other shells can ask after it, and end it."""

from __future__ import annotations

import json
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from proxy_trainer.launch.base import Order
from proxy_trainer.version import version
from regmix.config import LaunchConfig
from regmix.errors import UserError
from regmix.files import read_json, write_json
from regmix.layout import Piece, StudyLayout


@dataclass(frozen=True)
class Submission:
    """Workers that were started for some runs of a study: to train them, or to ask them tasks."""

    submission_id: str
    launcher: str
    order: Order
    runs: tuple[str, ...]
    """In the order in which they are begun."""
    settings: LaunchConfig
    regmix: str
    """Version and source of the command; a worker of another one refuses."""
    when: float
    """Seconds since the epoch."""
    jobs: tuple[str, ...] = ()
    cancelled: bool = False
    gang: bool = False
    """Its workers train the one run together, see :mod:`proxy_trainer.launch.gang`."""
    tasks: tuple[str, ...] = ()
    """Fingerprints of what the runs are asked; none if they are trained."""
    step: int | None = None
    """After which they are asked, by their checkpoints; at their end if not given."""

    @classmethod
    def new(
        cls, study: StudyLayout, runs: Sequence[str], settings: LaunchConfig, workers: int
    ) -> Submission:
        """What is about to be submitted; its id begins with the time, so that ids sort."""
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        submission_id = f"{stamp}-{secrets.token_hex(3)}"
        return cls(
            submission_id=submission_id,
            launcher=settings.launcher,
            order=Order(study.root, workers, settings.gpus_per_worker or 0, submission_id),
            runs=tuple(runs),
            settings=settings,
            regmix=version(),
            when=now,
        )

    def pieces(self, study: StudyLayout) -> list[Piece]:
        """What is claimed, each by one worker at a time, in the order in which it is begun."""
        if self.tasks:
            return [*study.asked(self.runs, self.tasks, self.step)]
        return [study.run(run_id) for run_id in self.runs]

    def save(self, study: StudyLayout) -> None:
        """Write ``launch/<id>.json`` whole."""
        values = {
            **vars(self),
            "order": {**asdict(self.order), "study": str(self.order.study)},
            "settings": self.settings.model_dump(mode="json", exclude_defaults=True),
        }
        write_json(study.launches / f"{self.submission_id}.json", values)

    @classmethod
    def load(cls, study: StudyLayout, submission_id: str) -> Submission:
        """Read a submission.

        Raises:
            UserError: there is none of that id, its file was damaged, or another version of the
                toolkit made it, in a way that this one does not know.
        """
        path = study.launches / f"{submission_id}.json"
        raw = read_json(path)
        made_by = raw.get("regmix") if isinstance(raw, dict) else None
        try:
            typed = {
                "order": Order(**{**raw["order"], "study": study.root}),
                "settings": LaunchConfig.model_validate_json(json.dumps(raw["settings"])),
                "runs": tuple(raw["runs"]),
                "jobs": tuple(raw["jobs"]),
                "tasks": tuple(raw.get("tasks", ())),
            }
            return cls(**{**raw, **typed})
        except (KeyError, TypeError, ValueError) as exc:
            if isinstance(made_by, str) and made_by != version():
                raise other_version(made_by, str(path)) from exc
            raise UserError(f"{path}: not a submission ({exc}); delete it") from exc

    def logs(self, study: StudyLayout) -> Path:
        """Folder for what its workers have to say."""
        return study.launches / self.submission_id


def other_version(regmix: str, path: str) -> UserError:
    """What to say of a submission that another version made.

    Args:
        regmix: that version.
        path: of the submission.
    """
    return UserError(
        f"{path}: submitted with regmix {regmix}; here is regmix {version()} ({sys.prefix} on "
        f"{socket.gethostname()}); install the same version on every node, or submit again if it "
        "was changed since (what stands after + is its source's)"
    )


def submissions(
    study: StudyLayout, tell: Callable[[UserError], object] | None = None
) -> list[Submission]:
    """Every submission of a study, the earliest first.

    Args:
        tell: called with what is wrong with a file, which is then left out.

    Raises:
        UserError: as :meth:`Submission.load`, where nobody is to be told.
    """
    found = []
    for path in sorted(study.launches.glob("*.json")):
        try:
            found.append(Submission.load(study, path.stem))
        except UserError as exc:
            if tell is None:
                raise
            tell(exc)
    return found
