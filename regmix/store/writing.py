"""From a run's files, or an import, to rows of the store."""

from __future__ import annotations

from typing import Any

import duckdb
import pandas as pd

from regmix.imports import ImportedRuns
from regmix.mixture import Mixture
from regmix.records import RunRecord
from regmix.store.schema import RUN_TABLES

IMPORT = "import"
"""The cohort of runs that were measured elsewhere."""
_WATCHED: dict[str, Any] = {
    "skipped": "Int64", "tokens_per_second": float, "mfu": float, "device_bytes": "Int64",
    "process_bytes": "Int64",
}  # fmt: skip
"""Fields of a step that only newer runs have, or only those that are watched."""


def stamp(record: RunRecord) -> str:
    """Changes whenever a run has to be read again."""
    return f"{record.stamp}|{record.spec.role}|{record.spec.name}"


def delete(db: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Forget a run."""
    for table in RUN_TABLES:
        db.execute(f"delete from {table} where run_id = ?", [run_id])  # noqa: S608 (our own names)


def _insert(db: duckdb.DuckDBPyConnection, table: str, frame: pd.DataFrame) -> None:
    if not frame.empty:
        db.register("incoming", frame)
        db.execute(f"insert into {table} by name select * from incoming")  # noqa: S608
        db.unregister("incoming")


def insert_run(db: duckdb.DuckDBPyConnection, record: RunRecord) -> None:
    """Everything that a run's files say.

    Raises:
        UserError: one of them is malformed.
    """
    spec, status = record.spec, record.status
    result = record.result() if status == "done" else {}
    db.execute(
        "insert into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            spec.run_id, spec.name, spec.role, status, spec.seed, spec.cohort, spec.mixture.id,
            spec.model.parameters, spec.tokens,
            record.failure()["reason"] if status == "failed" else None, stamp(record),
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


def insert_import(db: duckdb.DuckDBPyConnection, batch: ImportedRuns) -> None:
    """Runs that were measured elsewhere, each with its one value of every metric."""
    ids = batch.weights.index
    hashes = [
        Mixture.of({str(d): float(v) for d, v in row.items()}).id
        for _, row in batch.weights.iterrows()
    ]
    runs = pd.DataFrame(
        {
            "run_id": ids, "name": ids, "role": "import", "status": "done", "seed": None,
            "cohort": IMPORT, "mixture": hashes, "stamp": batch.stamp,
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
