"""The store: DuckDB tables derived from the files of a study.

Contract. Workers write files, each inside its own run folder; those are the truth. Only the
person's own command opens the store, for as long as one ingest or one query takes; the wait for
another such command is bounded and says what it waits for. ``ingest`` is idempotent: a run whose
files have not changed is not read again, one whose files have is replaced as a whole. The file can
be deleted at any time; the next command builds it again from ``runs/`` and ``imports/``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pandas as pd

from regmix.errors import RegmixError, UserError
from regmix.imports import read_imports
from regmix.layout import StudyLayout
from regmix.observations import Observations
from regmix.records import read_runs
from regmix.runs import PROXY_ROLES
from regmix.store import assembling, writing
from regmix.store.schema import prepare
from regmix.store.trails import Trails

LOCK_SECONDS = 30.0
_LAST_VALUES = (
    "select run_id, name, value, std_error from metrics "
    "join (select run_id, max(step) as step from metrics group by run_id) using (run_id, step) "
    "where split <> 'subject'"
)
"""Those of a run's last step: what was measured on the way alone is no figure of the finished run.
Without those of single subjects of a task, which are for looking at: too many, too noisy."""


class Store:
    """What is asked of the store, by command and by module."""

    def __init__(self, layout: StudyLayout) -> None:
        self._layout = layout

    @contextmanager
    def connect(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short connection; waits up to 30 seconds for another command's to end.

        Raises:
            RegmixError: another process keeps the store locked, or the file is not a store.
        """
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                connection = duckdb.connect(str(self._layout.store), read_only=read_only)
                break
            except duckdb.Error as exc:
                if not _in_use(exc):
                    raise RegmixError(
                        f"{self._layout.store}: not a store that can be opened ({exc}); "
                        "delete it, it is built again from the runs"
                    ) from exc
                if time.monotonic() > deadline:
                    raise RegmixError(
                        f"{self._layout.store}: still locked by another process after "
                        f"{LOCK_SECONDS:.0f} s; close it (a notebook or a database shell?)"
                    ) from exc
                time.sleep(0.1)
        try:
            yield connection
        except duckdb.Error as exc:
            raise RegmixError(
                f"{self._layout.store}: {exc}; if it is damaged, delete it: it is built again "
                "from the runs"
            ) from exc
        finally:
            connection.close()

    def ingest(self) -> int:
        """Bring the store up to date with the files; returns how many runs were (re)read."""
        records = read_runs(self._layout)
        imported = read_imports(self._layout)
        with self.connect() as db:
            prepare(db)
            known = dict(db.execute("select run_id, stamp from runs").fetchall())
            changed = [r for r in records if known.get(r.spec.run_id) != writing.stamp(r)]
            changed_imports = [i for i in imported if i.stamp not in known.values()]
            gone = set(known) - {r.spec.run_id for r in records}
            gone -= {run for i in imported for run in i.weights.index}
            db.begin()
            for run_id in gone:
                writing.delete(db, run_id)
            for record in changed:
                writing.delete(db, record.spec.run_id)
                writing.insert_run(db, record)
            for batch in changed_imports:
                for run_id in batch.weights.index:
                    writing.delete(db, run_id)
                writing.insert_import(db, batch)
            db.commit()
        return len(changed) + sum(len(i.weights) for i in changed_imports)

    def query(self, sql: str) -> pd.DataFrame:
        """Run a person's SQL on an up-to-date store, read-only.

        Raises:
            UserError: the statement is wrong, or would write.
        """
        self.ingest()
        with self.connect(read_only=True) as db:
            db.execute("set enable_external_access = false")  # no COPY … TO a file either
            try:
                if not duckdb.extract_statements(sql):
                    raise UserError("sql: no statement in it")
                return db.execute(sql).fetchdf()
            except duckdb.Error as exc:
                raise UserError(f"sql: {exc}") from exc

    def observations(self, wanted: Sequence[str] = ()) -> Observations:
        """Finished proxies of one cohort, with the last value of every metric.

        Args:
            wanted: the present proxy's, :attr:`regmix.runs.RunSpec.cohorts`, of which the one with
                the most finished runs counts; default: all that there are.

        Raises:
            UserError: nothing is measured yet, only other proxies are, or runs lack metrics that
                others have.
        """
        self.ingest()
        with self.connect(read_only=True) as db:
            runs = db.execute(
                "select run_id, name, role, seed, cohort, mixture, planned_tokens as tokens "
                "from runs where status = 'done' and list_contains(?, role) order by name, run_id",
                [list(PROXY_ROLES)],
            ).fetchdf()
            if runs.empty:
                raise UserError(
                    f"{self._layout.root}: no finished proxy yet; run `regmix propose` and "
                    "`regmix train`, or `regmix import`"
                )
            counts = runs["cohort"].value_counts()
            chosen = assembling.choose_cohort(counts, wanted, str(self._layout.root))
            runs, others = runs[runs["cohort"] == chosen], runs[runs["cohort"] != chosen]
            if runs["role"].isin(["replicate", "single"]).all():
                raise UserError(
                    f"{self._layout.root}: only repeats and single domains are finished yet, and "
                    "no mixture to compare; run `regmix train`"
                )
            weights = db.execute(
                "select run_id, domain, position, requested from mixtures"
            ).fetchdf()
            metrics = db.execute(_LAST_VALUES).fetchdf()
            failed = db.execute(
                "select name, reason from runs where status = 'failed' and cohort = ? "
                "order by name",
                [chosen],
            ).fetchall()
        left_out = [f"{name} (failed: {reason})" for name, reason in failed]
        left_out += [
            f"{name} ({'another version of the numerics' if cohort in wanted else 'another proxy'})"
            for name, cohort in zip(others["name"], others["cohort"], strict=True)
        ]
        return assembling.assemble(runs, weights, metrics, left_out)

    def targets(self) -> pd.DataFrame:
        """Finished target runs: mixture (its hash), seed, cohort, parameters, tokens, metrics."""
        info, values, _ = self.measured()
        runs = info[info["role"] == "target"].drop(columns=["name", "role"])
        return runs.join(values).reset_index()

    def measured(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """All finished runs, of every role and cohort, and the last values of their metrics.

        Returns:
            Three frames by run id, in the order of seeds and ids: ``name``, ``role``, ``mixture``
            (its hash), ``seed``, ``cohort``, ``parameters``, ``tokens``; values by metric; and
            their sampling errors. NaN where a run lacks a metric, or an error is not known.
        """
        self.ingest()
        with self.connect(read_only=True) as db:
            runs = db.execute(
                "select run_id, name, role, mixture, seed, cohort, parameters, "
                "planned_tokens as tokens from runs where status = 'done' order by seed, run_id"
            ).fetchdf()
            metrics = db.execute(_LAST_VALUES).fetchdf()
        info = runs.set_index("run_id")
        values, errors = (
            metrics.pivot(index="run_id", columns="name", values=column).reindex(info.index)
            for column in ("value", "std_error")
        )
        return info, values, errors

    def trails(self, runs: Sequence[str]) -> Trails:
        """What some runs left on their way."""
        self.ingest()
        ids = [list(runs)]
        with self.connect(read_only=True) as db:
            info, steps, metrics, mixtures = (
                db.execute(f"select {what} where list_contains(?, run_id)", ids).fetchdf()
                for what in (
                    "run_id, name, planned_tokens as planned, c.tokens "
                    "from runs left join costs c using (run_id)",
                    "run_id, step, loss, grad_norm from steps",
                    "run_id, step, name, value from metrics",
                    "run_id, domain, requested, realised from mixtures",
                )
            )
        return Trails(info.set_index("run_id"), steps, metrics, mixtures)

    def sizes(self) -> pd.DataFrame:
        """Finished proxies of every size.

        ``run_id``, name, role, mixture (its hash), seed, cohort, parameters, tokens, metrics.
        """
        info, values, _ = self.measured()
        return info[info["role"].isin(["swarm", "baseline", "ladder"])].join(values).reset_index()

    def costs(self) -> pd.DataFrame:
        """Runs, tokens, FLOPs and seconds of finished runs, by role."""
        self.ingest()
        with self.connect(read_only=True) as db:
            return db.execute(
                "select role, count(*) as runs, sum(c.tokens) as tokens, sum(flops) as flops, "
                "sum(seconds) as seconds from runs join costs c using (run_id) "
                "group by role order by role"
            ).fetchdf()


def _in_use(error: duckdb.Error) -> bool:
    """Whether another process, or another connection of this one, has the store open."""
    return isinstance(error, duckdb.ConnectionException) or "Could not set lock" in str(error)
