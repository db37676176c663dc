"""The store: DuckDB tables derived from the files of a study.

Contract. Workers write files, each inside its own run folder; those are the truth. Only the
person's own command opens the store, for as long as one ingest or one query takes; the wait for
another such command is bounded and says what it waits for. ``ingest`` is idempotent: a run whose
files have not changed is not read again, one whose files have is replaced as a whole. The file can
be deleted at any time; the next command builds it again from ``runs/`` and ``imports/``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pandas as pd

from regmix.errors import RegmixError, UserError
from regmix.hashing import fingerprint
from regmix.imports import ImportedRuns, read_imports
from regmix.layout import StudyLayout
from regmix.mixture import Mixture
from regmix.observations import Observations
from regmix.pages import page
from regmix.records import RunRecord, read_runs
from regmix.runs import PROXY_ROLES, RunSpec

SCHEMA_VERSION = 4
LOCK_SECONDS = 30.0
IMPORT = "import"
"""The cohort of runs that were measured elsewhere."""

_SCHEMA = """
create table if not exists schema_version (version integer);
create table if not exists runs (
    run_id varchar primary key, name varchar, role varchar, status varchar, seed bigint,
    cohort varchar, mixture varchar, parameters bigint, planned_tokens bigint, reason varchar,
    stamp varchar
);
create table if not exists mixtures (
    run_id varchar, domain varchar, position integer, requested double, realised double,
    epochs double
);
create table if not exists metrics (
    run_id varchar, step bigint, tokens bigint, name varchar, split varchar, value double,
    std_error double
);
create table if not exists steps (
    run_id varchar, step bigint, tokens bigint, loss double, grad_norm double, lr double,
    skipped bigint, tokens_per_second double, mfu double, device_bytes bigint,
    process_bytes bigint
);
create table if not exists costs (run_id varchar, seconds double, flops double, tokens bigint);
create table if not exists environments (run_id varchar, key varchar, value varchar);
"""
_WATCHED: dict[str, Any] = {
    "skipped": "Int64", "tokens_per_second": float, "mfu": float, "device_bytes": "Int64",
    "process_bytes": "Int64",
}  # fmt: skip
"""Fields of a step that only newer runs have, or only those that are watched."""
_LAST_VALUES = (
    "select run_id, name, value, std_error from metrics "
    "join (select run_id, max(step) as step from metrics group by run_id) using (run_id, step) "
    "where split <> 'subject'"
)
"""Those of a run's last step: what was measured on the way alone is no figure of the finished run.
Without those of single subjects of a task, which are for looking at: too many, too noisy."""
_RUN_TABLES = ("runs", "mixtures", "metrics", "steps", "costs", "environments")


def cohort(spec: RunSpec) -> str:
    """What runs must share to be comparable: model, training settings, data, what is measured.

    Also where they start, the conversations they read, and of how many runs they are the average.
    Not the seed. Whether models are kept is a part too: of two runs that differ in nothing else the
    second would pass for a repeat, of no noise. What kept ones are asked is not: they can be asked
    the same at any time.
    """
    parts = [asdict(spec.model), asdict(spec.plan), spec.vocab_size, spec.data, spec.numerics]
    stage = {
        "kept": spec.keep_model,
        "tasks": [] if spec.keep_model else list(spec.tasks),
        "start": asdict(spec.start) if spec.start else None,
        "chat": spec.chat,
        "held_out": spec.held_out,
        "averaged": len(spec.merge),
    }
    own = {key: value for key, value in stage.items() if value}
    return fingerprint([*parts, own] if own else parts)


@dataclass(frozen=True)
class Trails:
    """What runs left on their way; NaN where something is not known, as of imported runs."""

    info: pd.DataFrame
    """By run id: ``name``, ``planned`` and seen ``tokens``."""
    steps: pd.DataFrame
    """``run_id``, ``step``, ``loss``, ``grad_norm`` at log points."""
    metrics: pd.DataFrame
    """``run_id``, ``step``, ``name``, ``value`` of every evaluation."""
    shares: pd.DataFrame
    """``run_id``, ``domain``, ``requested``, ``realised``."""

    def of(self, runs: Iterable[str]) -> Trails:
        """Those of some of the runs."""
        wanted = set(runs)
        steps, metrics, shares = (
            f[f["run_id"].isin(wanted)] for f in (self.steps, self.metrics, self.shares)
        )
        return Trails(self.info[self.info.index.isin(wanted)], steps, metrics, shares)


class Store:
    """All SQL of the toolkit."""

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
            self._prepare(db)
            known = dict(db.execute("select run_id, stamp from runs").fetchall())
            changed = [r for r in records if known.get(r.spec.run_id) != _stamp(r)]
            changed_imports = [i for i in imported if i.stamp not in known.values()]
            gone = set(known) - {r.spec.run_id for r in records}
            gone -= {run for i in imported for run in i.weights.index}
            db.begin()
            for run_id in gone:
                _delete(db, run_id)
            for record in changed:
                _delete(db, record.spec.run_id)
                _insert_run(db, record)
            for batch in changed_imports:
                for run_id in batch.weights.index:
                    _delete(db, run_id)
                _insert_import(db, batch)
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

    def observations(self, wanted_cohort: str | None = None) -> Observations:
        """Finished proxies of one cohort, with the last value of every metric.

        Args:
            wanted_cohort: the present proxy's; default: the cohort with the most finished runs.

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
            chosen = _choose_cohort(counts, wanted_cohort, str(self._layout.root))
            runs, others = runs[runs["cohort"] == chosen], runs[runs["cohort"] != chosen]
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
        left_out += [f"{name} (another proxy)" for name in others["name"]]
        return _assemble(runs, weights, metrics, left_out)

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

    def _prepare(self, db: duckdb.DuckDBPyConnection) -> None:
        db.execute(_SCHEMA)
        found = db.execute("select max(version) from schema_version").fetchone()
        if found and found[0] == SCHEMA_VERSION:
            return
        if found and found[0] is not None:
            for table in _RUN_TABLES:
                db.execute(f"drop table {table}")
            db.execute(_SCHEMA)
            db.execute("delete from schema_version")
        db.execute("insert into schema_version values (?)", [SCHEMA_VERSION])


def _choose_cohort(counts: pd.Series, wanted: str | None, root: str) -> str:
    """The wanted cohort, an import where nothing else is, or the largest if none is wanted."""
    if wanted is None or wanted in counts.index:
        return wanted or str(counts.index[0])
    if list(counts.index) == [IMPORT]:
        return IMPORT
    raise UserError(
        f"{root}: none of the {int(counts.sum())} finished runs is of the proxy and the data that "
        "the study now describes; run `regmix propose` and `regmix train`, or undo the change "
        f"({page('REUSE')} says what a change costs)"
    )


def _in_use(error: duckdb.Error) -> bool:
    """Whether another process, or another connection of this one, has the store open."""
    return isinstance(error, duckdb.ConnectionException) or "Could not set lock" in str(error)


def _stamp(record: RunRecord) -> str:
    return f"{record.stamp}|{record.spec.role}|{record.spec.name}"


def _delete(db: duckdb.DuckDBPyConnection, run_id: str) -> None:
    for table in _RUN_TABLES:
        db.execute(f"delete from {table} where run_id = ?", [run_id])  # noqa: S608 (our own names)


def _insert(db: duckdb.DuckDBPyConnection, table: str, frame: pd.DataFrame) -> None:
    if not frame.empty:
        db.register("incoming", frame)
        db.execute(f"insert into {table} by name select * from incoming")  # noqa: S608
        db.unregister("incoming")


def _insert_run(db: duckdb.DuckDBPyConnection, record: RunRecord) -> None:
    spec, status = record.spec, record.status
    result = record.result() if status == "done" else {}
    db.execute(
        "insert into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            spec.run_id, spec.name, spec.role, status, spec.seed, cohort(spec), spec.mixture.id,
            spec.model.parameters, spec.tokens,
            record.failure()["reason"] if status == "failed" else None, _stamp(record),
        ],
    )  # fmt: skip
    realised = {d["domain"]: d for d in result.get("domains", [])}
    mixture = [
        {
            "run_id": spec.run_id,
            "domain": name,
            "position": position,
            "requested": weight,
            "realised": realised.get(name, {}).get("realised"),
            "epochs": realised.get(name, {}).get("epochs"),
        }
        for position, (name, weight) in enumerate(spec.mixture.as_dict().items())
    ]
    _insert(db, "mixtures", pd.DataFrame(mixture).astype({"realised": float, "epochs": float}))
    _insert_events(db, record)
    if result:
        cost = {"run_id": spec.run_id, **{k: result[k] for k in ("seconds", "flops", "tokens")}}
        _insert(db, "costs", pd.DataFrame([cost]))
        env = [{"run_id": spec.run_id, "key": k, "value": str(v)}
               for k, v in result["environment"].items()]  # fmt: skip
        _insert(db, "environments", pd.DataFrame(env))


def _insert_events(db: duckdb.DuckDBPyConnection, record: RunRecord) -> None:
    """Metrics and training losses; an event repeated after a resume replaces the earlier one."""
    metrics: dict[tuple[int, str, str], dict[str, object]] = {}
    steps: dict[int, dict[str, object]] = {}
    for event in record.events():
        if event["type"] == "metric":
            key = (event["step"], event["name"], event["split"])
            metrics[key] = {
                **{k: event[k] for k in ("step", "tokens", "name", "split", "value")},
                "std_error": event.get("std_error"),
            }
        elif event["type"] == "step":
            steps[event["step"]] = {
                **{k: event[k] for k in ("step", "tokens", "loss", "grad_norm", "lr")},
                **{k: event.get(k) for k in _WATCHED},
            }
    for found in record.evals():
        place = {"step": found["step"], "tokens": found["tokens"]}
        for m in found["metrics"]:
            own = {k: m[k] for k in ("name", "split", "value", "std_error")}
            metrics[place["step"], m["name"], m["split"]] = {**place, **own}
    for table, rows in (("metrics", metrics), ("steps", steps)):
        frame = pd.DataFrame(list(rows.values()))
        if not frame.empty:
            frame.insert(0, "run_id", record.spec.run_id)
            kinds = {"steps": {"grad_norm": float, **_WATCHED}, "metrics": {"std_error": float}}
            frame = frame.astype(kinds[table])
            _insert(db, table, frame)


def _insert_import(db: duckdb.DuckDBPyConnection, batch: ImportedRuns) -> None:
    ids = batch.weights.index
    hashes = [
        Mixture.of({str(d): float(v) for d, v in row.items()}).id
        for _, row in batch.weights.iterrows()
    ]
    runs = pd.DataFrame(
        {
            "run_id": ids, "name": ids, "role": "import", "status": "done", "seed": None,
            "cohort": "import", "mixture": hashes, "stamp": batch.stamp,
        }
    ).astype({"seed": "Int64"})  # fmt: skip
    _insert(db, "runs", runs)
    long = batch.weights.rename_axis("run_id").reset_index()
    long = long.melt("run_id", var_name="domain", value_name="requested")
    position = {d: i for i, d in enumerate(batch.weights.columns)}
    long["position"] = long["domain"].map(position)
    _insert(db, "mixtures", long)
    errors = batch.metrics.iloc[:, :0] if batch.errors is None else batch.errors
    values, std_errors = (
        f.rename_axis("run_id").reset_index().melt("run_id", var_name="name", value_name=value)
        for f, value in ((batch.metrics, "value"), (errors, "std_error"))
    )
    values = values.merge(std_errors, "left", ["run_id", "name"], validate="one_to_one")
    values = values.astype({"std_error": float}).assign(step=0, tokens=0, split="valid")
    _insert(db, "metrics", values)


def _assemble(
    runs: pd.DataFrame, weights: pd.DataFrame, metrics: pd.DataFrame, excluded: list[str]
) -> Observations:
    info = runs.set_index("run_id")
    weights, metrics = (f[f["run_id"].isin(info.index)] for f in (weights, metrics))
    order = weights.drop_duplicates("domain").sort_values("position")["domain"]
    wide_w = weights.pivot(index="run_id", columns="domain", values="requested")
    wide_w = wide_w.loc[info.index, list(order)]
    wide_m = metrics.pivot(index="run_id", columns="name", values="value").reindex(info.index)
    incomplete = wide_m.columns[wide_m.isna().any()]
    if len(incomplete):
        example = wide_m.index[wide_m[incomplete[0]].isna()][0]
        raise UserError(
            f"metric '{incomplete[0]}' is missing in {int(wide_m[incomplete[0]].isna().sum())} of "
            f"{len(wide_m)} runs, first in {example}; evaluate them (`regmix eval`, where "
            "models are kept), or import without the metric"
        )
    errors = metrics.pivot(index="run_id", columns="name", values="std_error")
    for frame in (wide_w, wide_m, errors):
        frame.columns.name = None
    single = info["role"] == "single"
    repeated = info["mixture"].duplicated(keep=False)
    replicates = wide_m[repeated].assign(mixture=info.loc[repeated, "mixture"])
    keep = (info["role"] != "replicate") & ~single
    excluded += [f"{name} (one domain alone: a reference)" for name in info.loc[single, "name"]]
    return Observations(
        weights=wide_w[keep],
        metrics=wide_m[keep],
        info=info.loc[keep, ["name", "role", "seed", "tokens"]],
        replicates=replicates,
        replicate_weights=_by_mixture(wide_w[repeated], info["mixture"]),
        singles=wide_m[single].set_index(info.loc[single, "name"]),
        excluded=tuple(excluded),
        std_errors=errors.reindex(info.index),
        replicate_names={str(r): str(n) for r, n in info.loc[repeated, "name"].items()},
    )


def _by_mixture(weights: pd.DataFrame, mixtures: pd.Series) -> pd.DataFrame:
    """Weights by the mixture's hash, each once."""
    hashes = mixtures.loc[weights.index]
    return weights.set_axis(hashes, axis=0)[~hashes.duplicated().to_numpy()]
