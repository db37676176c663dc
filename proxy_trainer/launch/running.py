"""From runs to workers and back: submit, wait, cancel, read logs; the same for every launcher."""

from __future__ import annotations

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
from regmix.errors import RegmixError
from regmix.files import read_json
from regmix.layout import RunLayout, StudyLayout

POLL_SECONDS = {"local": 0.05}
"""Between questions to a launcher; for the others there is the default below."""
POLL_OTHERS_SECONDS = 5.0
GLANCE_SECONDS = 0.5
"""Between calls of what shows progress."""


class Cancelled(RegmixError):
    """The workers ended before the runs did; a scheduler may start the command again."""

    exit_code = 75


@dataclass
class Outcome:
    """How the runs of one command ended."""

    done: list[str] = field(default_factory=list)
    """Trained by this command."""
    failed: list[str] = field(default_factory=list)
    """Diverged, or failed too often; marked FAILED."""
    busy: list[str] = field(default_factory=list)
    """Held by another command, and not done when this one ended."""
    elsewhere: list[str] = field(default_factory=list)
    """Done, but trained by another command meanwhile."""


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
            RegmixError: a worker could not go on, with its message, and runs are left over.
        """
        pause = POLL_SECONDS.get(self.submission.launcher, POLL_OTHERS_SECONDS)
        try:
            while any(job.state in ("waiting", "running") for job in self.poll()):
                until = time.monotonic() + pause
                while (left := until - time.monotonic()) > 0:
                    time.sleep(min(left, GLANCE_SECONDS))
                    if on_poll:
                        on_poll()
            return self._outcome(self.poll())
        finally:
            close = getattr(self.launcher, "close", None)
            if close:
                close()

    def _outcome(self, jobs: list[Job]) -> Outcome:
        outcome, glance, left = Outcome(), Glance(self.study.runs), []
        for run_id in self.submission.runs:
            run = self.study.run(run_id)
            if run.done.exists():
                (outcome.done if self._is_own(run) else outcome.elsewhere).append(run_id)
            elif run.failed.exists():
                outcome.failed.append(run_id)
            elif (entry := claims.last(run.claims)) is not None and glance.holds(entry):
                outcome.busy.append(run_id)
            else:
                left.append(run_id)
        broken = [job.reason or f"job {job.job_id} failed" for job in jobs if job.state == "failed"]
        if broken:
            raise RegmixError("; ".join(broken))
        if left:
            raise Cancelled(
                f"the workers ended with {len(left)} runs open, as they do when told to; their "
                "checkpoints are kept: run the same command again to go on"
            )
        return outcome

    def _is_own(self, run: RunLayout) -> bool:
        worker = read_json(run.done).get("environment", {}).get("worker", "")
        return self.submission.launcher != "local" or str(worker).startswith(
            self.submission.submission_id
        )


def prepare(
    study: StudyLayout, run_ids: Sequence[str], settings: LaunchConfig, workers: int
) -> Launch:
    """Make sure that workers can be started, without starting any.

    Raises:
        UserError: the launcher is unknown or lacks its library, or cannot give what is asked.
    """
    where = f"{study.config}: launch.launcher"
    section: Any = getattr(settings, settings.launcher, None)
    launcher = registry.launcher(settings.launcher, section, where)
    submission = Submission.new(study, run_ids, settings, workers)
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


def launches(study: StudyLayout) -> list[Launch]:
    """What was submitted and not cancelled, the earliest first."""
    found = []
    for submission in submissions(study):
        if submission.cancelled:
            continue
        section: Any = getattr(submission.settings, submission.launcher, None)
        launcher = registry.launcher(submission.launcher, section)
        found.append(Launch(study, submission, launcher))
    return found


def cancel(study: StudyLayout) -> list[Job]:
    """Ask all workers of a study to leave checkpoints and end; the jobs that were asked.

    Raises:
        UserError: a job can only be cancelled on another machine.
    """
    asked: list[Job] = []
    for launch in launches(study):
        jobs = [job for job in launch.poll() if job.state in ("waiting", "running")]
        launch.launcher.cancel(study.root, [job.job_id for job in jobs])
        replace(launch.submission, cancelled=True).save(study)
        asked += jobs
    return asked


def logs(study: StudyLayout) -> list[Path]:
    """The logs of all workers of a study, in the order in which they were submitted."""
    found = []
    for submission in submissions(study):
        section: Any = getattr(submission.settings, submission.launcher, None)
        launcher = registry.launcher(submission.launcher, section)
        found += launcher.logs(study.root, list(submission.jobs))
    return [path for path in found if path.is_file()]
