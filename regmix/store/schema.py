"""The tables of the store."""

from __future__ import annotations

import duckdb

VERSION = 4
RUN_TABLES = ("runs", "mixtures", "metrics", "steps", "costs", "environments")

SCHEMA = """
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


def prepare(db: duckdb.DuckDBPyConnection) -> None:
    """Make the tables; those of another version are thrown away, to be filled anew."""
    db.execute(SCHEMA)
    found = db.execute("select max(version) from schema_version").fetchone()
    if found and found[0] == VERSION:
        return
    if found and found[0] is not None:
        for table in RUN_TABLES:
            db.execute(f"drop table {table}")
        db.execute(SCHEMA)
        db.execute("delete from schema_version")
    db.execute("insert into schema_version values (?)", [VERSION])
