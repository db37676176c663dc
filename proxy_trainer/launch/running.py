"""From runs to workers and back: submit, wait, cancel, read logs; the same for every launcher."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from proxy_trainer.launch import registry
from proxy_trainer.launch.base import Job, Launcher
from proxy_trainer.launch.submissions import Submission, submissions
from regmix import claims
from regmix.claims import Glance
from regmix.config import LaunchConfig
from regmix.errors import RegmixError, UserError
from regmix.files import read_json
from regmix.layout import Piece, StudyLayout

POLL_SECONDS = {"local": 0.05}
"""Between questions to a launcher; for the others there is the default below."""
POLL_OTHERS_SECONDS = 5.0
GLANCE_SECONDS = 0.5
"""Between calls of what shows progress."""


UNHEARD_SECONDS = 600.0
"""How long a launcher that does not answer is asked again before waiting ends."""


class Cancelled(RegmixError):
    """The workers ended before the runs did; a scheduler may start the command again."""

    exit_code = 75


class WorkersFailed(RegmixError):
    """Workers could not go on, for the reasons that they give."""


@dataclass
class Outcome:
    """How the runs of one command ended; a run that was asked tasks may stand in several lists."""

    done: list[str] = field(default_factory=list)
    """Trained, or asked, by this command's workers."""
    failed: list[str] = field(default_factory=list)
    """Diverged, or failed too often; marked FAILED."""
    busy: list[str] = field(default_factory=list)
    """Held by another command, and not done when this one ended."""
    elsewhere: list[str] = field(default_factory=list)
    """Done, but by another command meanwhile."""


@dataclass(frozen=True)
class Launch:
    """Workers that were submitted, and the launcher that can be asked after them."""

    study: StudyLayout
    submission: Submission
    launcher: Launcher

    def poll(self) -> list[Job]:
        """The jobs' states."""
        return self.launcher.poll(self.study.root, list(self.submission.jobs))

    def wait(self, on_poll: Callable[[], None] | None = None) -> Outcome:
        """Wait until no job runs any more.

        Args:
            on_poll: called a few times a second.

        Raises:
            Cancelled: the workers were told to end.
            WorkersFailed: a worker could not go on, with its message, and runs are left over.
            RegmixError: the launcher has not answered for long; workers may be at work.
        """
        pause = POLL_SECONDS.get(self.submission.launcher, POLL_OTHERS_SECONDS)
        patience = _Patience()
        try:
            while True:
                jobs = patience.ask(self.poll)
                if jobs is not None and not any(_is_open(job) for job in jobs):
                    return self._outcome(jobs)
                until = time.monotonic() + pause
                while (left := until - time.monotonic()) > 0:
                    time.sleep(min(left, GLANCE_SECONDS))
                    if on_poll:
                        on_poll()
        finally:
            close = getattr(self.launcher, "close", None)
            if close:
                close()

    def _outcome(self, jobs: list[Job]) -> Outcome:
        outcome, glance, left = Outcome(), Glance(self.study.runs), []
        for piece in self.submission.pieces(self.study):
            run_id = piece.root.name
            if piece.done.exists():
                (outcome.done if self._is_own(piece) else outcome.elsewhere).append(run_id)
            elif piece.failed.exists():
                outcome.failed.append(run_id)
            elif (entry := claims.last(piece.claims)) is not None and glance.holds(entry):
                outcome.busy.append(run_id)
            else:
                left.append(piece)
        broken = [job.reason or f"job {job.job_id} failed" for job in jobs if job.state == "failed"]
        if broken:
            raise WorkersFailed("; ".join(broken))
        if left:
            what = "runs open", "their checkpoints are kept"
            if self.submission.tasks:
                what = "answers open", "the others are kept"
            raise Cancelled(
                f"the workers ended with {len(left)} {what[0]}, as they do when told to; "
                f"{what[1]}: run the same command again to go on"
            )
        return outcome

    def _is_own(self, piece: Piece) -> bool:
        """Whether one of this submission's workers, who are named for it, did a piece."""
        worker = read_json(piece.done).get("environment", {}).get("worker", "")
        return str(worker).startswith(f"{self.submission.submission_id}.")


class _Patience:
    """Asks a launcher that may be slow to answer; a cluster's controller has bad minutes."""

    def __init__(self) -> None:
        self._heard = time.monotonic()
        self._warned = False

    def ask(self, poll: Callable[[], list[Job]]) -> list[Job] | None:
        """The jobs; None where there was no answer.

        Raises:
            RegmixError: there has been none for long.
        """
        try:
            jobs = poll()
        except RegmixError as exc:
            silent = time.monotonic() - self._heard
            if silent > UNHEARD_SECONDS:
                raise RegmixError(
                    f"{exc}; no answer for {silent / 60:.0f} minutes. Workers that were submitted "
                    "go on without this command, and the same command waits for their runs again"
                ) from exc
            if not self._warned:
                print(f"warning: {exc}; asking again", file=sys.stderr, flush=True)
            self._warned = True
            return None
        self._heard, self._warned = time.monotonic(), False
        return jobs


def _is_open(job: Job) -> bool:
    return job.state in ("waiting", "running")


def prepare(
    study: StudyLayout,
    run_ids: Sequence[str],
    settings: LaunchConfig,
    workers: int,
    *,
    detached: bool = False,
    tasks: Sequence[str] = (),
    step: int | None = None,
) -> Launch:
    """Make sure that workers can be started, without starting any.

    Args:
        detached: the workers are to outlive the command.
        tasks: fingerprints of what the runs are to be asked; none if they are to be trained.
        step: after which they are asked, by their checkpoints; at their end if not given.

    Raises:
        UserError: the launcher is unknown or lacks its library, or cannot give what is asked.
    """
    where = f"{study.config}: launch.launcher"
    section: Any = getattr(settings, settings.launcher, None)
    launcher = registry.launcher(settings.launcher, section, where)
    new = Submission.new(study, run_ids, settings, workers)
    order = replace(new.order, detached=detached)
    submission = replace(new, order=order, tasks=tuple(tasks), step=step)
    launcher.check(submission.order)
    return Launch(study, submission, launcher)


def start(launch: Launch) -> Launch:
    """Submit the workers; from here on other shells can ask after them."""
    return begin(launch, lambda: launch.launcher.submit(launch.submission.order))


def begin(launch: Launch, submit: Callable[[], list[str]]) -> Launch:
    """Submit what a submission is for, and keep it.

    Args:
        submit: starts it; the ids of its jobs.
    """
    launch.submission.save(launch.study)  # before the jobs: a worker reads its runs from it
    submission = replace(launch.submission, jobs=tuple(submit()))
    submission.save(launch.study)
    return replace(launch, submission=submission)


def launched(study: StudyLayout, submission: Submission) -> Launch:
    """What was submitted, with its launcher.

    Raises:
        UserError: the launcher is a plug-in that is not there any more.
    """
    where = f"{study.launches / submission.submission_id}.json: launcher"
    section: Any = getattr(submission.settings, submission.launcher, None)
    return Launch(study, submission, registry.launcher(submission.launcher, section, where))


def cancel(study: StudyLayout) -> list[Job]:
    """Ask all workers of a study to leave checkpoints and end; the jobs that were asked.

    Submissions whose runs are all closed have nothing left to end. One that cannot be asked stands
    in no other's way.

    Raises:
        RegmixError: some could not be asked: their system does not answer or is not there any
            more, they are on another machine, or their files cannot be read. All others were.
    """
    asked: list[Job] = []
    troubles: list[RegmixError] = []
    for submission in submissions(study, troubles.append):
        if submission.cancelled or _is_closed(study, submission):
            continue
        try:
            asked += _cancel(launched(study, submission))
        except RegmixError as exc:
            troubles.append(exc)
    raise_all(troubles, f"; {len(asked)} other jobs were told to end" if asked else "")
    return asked


def _cancel(launch: Launch) -> list[Job]:
    study, submission = launch.study, launch.submission
    try:
        jobs = [job for job in launch.poll() if _is_open(job)]
    except RegmixError:  # whoever lives may be told all the same
        launch.launcher.cancel(study.root, list(submission.jobs))
        replace(submission, cancelled=True).save(study)
        raise
    launch.launcher.cancel(study.root, [job.job_id for job in jobs])
    replace(submission, cancelled=True).save(study)
    return jobs


def _is_closed(study: StudyLayout, submission: Submission) -> bool:
    return all(p.done.exists() or p.failed.exists() for p in submission.pieces(study))


def logs(study: StudyLayout, tell: Callable[[RegmixError], object] | None = None) -> list[Path]:
    """The logs of all workers of a study, in the order in which they were submitted.

    Args:
        tell: called with what hides the logs of one submission; without it, that is raised.

    Raises:
        RegmixError: the logs of a submission cannot be found, and nobody is to be told.
    """
    found = []
    for submission in submissions(study, tell):
        try:
            launcher = launched(study, submission).launcher
            found += launcher.logs(study.root, list(submission.jobs))
        except RegmixError as exc:
            if tell is None:
                raise
            tell(exc)
    return [path for path in found if path.is_file()]


def raise_all(troubles: Sequence[RegmixError], further: str = "") -> None:
    """Raise what was collected, as one; nothing if there is nothing.

    Args:
        further: added to the message.

    Raises:
        UserError: all of it are mistakes of a person.
        RegmixError: otherwise.
    """
    if not troubles:
        return
    kind = UserError if all(isinstance(t, UserError) for t in troubles) else RegmixError
    raise kind("; ".join(dict.fromkeys(map(str, troubles))) + further) from troubles[0]
