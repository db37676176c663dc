"""The local launcher passes the public suite, which notices launchers that break a promise.

Slurm's and Ray's are tried where their services are started: tests/proxy_trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_trainer.launch.base import Job, Order
from proxy_trainer.launch.local import LocalLauncher
from regmix import testing
from regmix.testing import Bench
from regmix.testing.launchers import (
    a_check_starts_nothing_and_names_a_missing_library,
    cancelled_workers_leave_checkpoints_and_it_can_be_said_twice,
    logs_hold_what_the_workers_wrote,
    the_run_of_a_killed_worker_is_not_lost,
    the_work_is_done_and_the_jobs_end,
    workers_that_cannot_work_fail_with_a_reason,
)

pytestmark = pytest.mark.slow
Check = Callable[[Bench], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.mark.parametrize("check", testing.LAUNCHER_CHECKS, ids=lambda c: c.__name__)
def test_local(check: Check, folder: Path) -> None:
    check(Bench(LocalLauncher, folder, outlives=False))


class SaysAllIsDone(LocalLauncher):
    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        return [Job(job.job_id, "ended") for job in super().poll(study, job_ids)]


class Kills(LocalLauncher):
    def cancel(self, study: Path, job_ids: list[str]) -> None:
        super().cancel(study, job_ids)
        for place in self._places if job_ids else ():
            place.process.kill()


class KeepsQuiet(LocalLauncher):
    def poll(self, study: Path, job_ids: list[str]) -> list[Job]:
        states = {"failed": "ended"}
        found = super().poll(study, job_ids)
        return [Job(j.job_id, states.get(j.state, j.state)) for j in found]  # type: ignore[arg-type]


class HidesLogs(LocalLauncher):
    def logs(self, study: Path, job_ids: list[str]) -> list[Path]:
        return super().logs(study, job_ids) if not job_ids else []


class StartsWhenChecked(LocalLauncher):
    def check(self, order: Order) -> None:
        (order.study / "launch" / "begun").mkdir(parents=True)


class GivesUp(LocalLauncher):
    """Ends when a worker is killed, and calls that an end."""

    def _replace(self, place: object) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        (SaysAllIsDone, the_work_is_done_and_the_jobs_end, "the jobs ended with runs open"),
        (Kills, cancelled_workers_leave_checkpoints_and_it_can_be_said_twice, "not asked but kill"),
        (KeepsQuiet, workers_that_cannot_work_fail_with_a_reason, "its worker refused, and it is"),
        (HidesLogs, logs_hold_what_the_workers_wrote, "waited 20 seconds for .* in the logs"),
        (StartsWhenChecked, a_check_starts_nothing_and_names_a_missing_library, "check left"),
        (GivesUp, the_run_of_a_killed_worker_is_not_lost, "its run is open, and that is said"),
    ],
)
def test_the_suite_notices(
    kind: type[LocalLauncher], check: Check, said: str, folder: Path
) -> None:
    with pytest.raises(AssertionError, match=said):
        check(Bench(kind, folder, outlives=False, seconds=20))


def test_the_suite_notices_a_missing_library_that_is_not_told(folder: Path) -> None:
    bench = Bench(LocalLauncher, folder, library="duckdb", outlives=False)
    with pytest.raises(AssertionError, match="not refused although duckdb is not installed"):
        a_check_starts_nothing_and_names_a_missing_library(bench)
