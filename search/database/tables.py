"""The service's own tables, beside Optuna's in the same database.

Rows are keyed by the study's key and the trial's number, which never change and are never reused.
Optuna's ids are reused by SQLite, and change when a study is renamed. There are no foreign keys to
Optuna's tables, so that Optuna's tools can delete a study; its rows remain, and belong to no other
study.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

VERSION = 5
"""Version of these tables and of the definitions of studies. Version 1 had no table
`search_schema`; version 2 had no metric and direction in a definition,
version 3 no `until` in a lease, version 4 no `is_audit` in a lease and an epoch."""

metadata = MetaData()

schema = Table(
    "search_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("home", String(200), nullable=False),
)
"""One row: the version of the tables, and the database's location when they were created, which
distinguishes a copy from the original; see `search.database.dialects.home_of`."""

studies = Table(
    "search_studies",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("study_id", Integer),  # Optuna's; null while the study is being created
    Column("name", String(512), nullable=False),  # at creation, or when last found renamed
    Column("files", String(32), nullable=False),
)
"""The studies that this service created in this database. `files` is the prefix of the ids of all
artifacts of the study. A copied database gets new prefixes, and so never touches the original's
files."""

epochs = Table(
    "search_epochs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study_key", String(32), nullable=False),
    Column("trial", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("score", Float(53), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("checkpoint_sha256", String(64)),
    Column("is_audit", Boolean, nullable=False),
    UniqueConstraint("study_key", "trial", "number"),
    Index("ix_search_epochs_rung", "study_key", "number", "score"),
)
"""One row for each finished epoch, in recording order, never changed. `score` is the metric that
prunes and ranks trials, negated if it is minimized: higher is better. An epoch of an audit is one
that a trial ran after it was pruned for good: outside the budget, and not compared on a rung."""

leases = Table(
    "search_leases",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(200), nullable=False),
    Column("process", String(200), nullable=False),  # see `search.database.liveness`
    Column("expires_at", Float(53), nullable=False),  # in the database's time, see `clock`
    Column("until", Integer, nullable=False),
    Column("is_audit", Boolean, nullable=False),
    Column("batches_per_second", Float(53)),
)
"""Which worker runs which trial, until which epoch and which moment, and how fast."""

weights = Table(
    "search_weights",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False),
    Column("artifact_id", String(200), nullable=False),
)
"""Kept weights: the SHA-256 and the artifact id of each file."""


steering = Table(
    "search_steering",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("is_paused", Boolean, nullable=False),
    Column("stopped_at", Float(53), nullable=False),  # in the database's time, see `clock`
)
"""What is asked of a study's workers; see `search.database.steering`."""


knowledge = Table(
    "search_knowledge",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("origin", String(32), nullable=False),  # its key
    Column("origin_name", String(512), nullable=False),  # when its trials were copied
    Column("is_comparable", Boolean, nullable=False),
    Column("trial", JSON, nullable=False),
)
"""Trials of other studies that a study's sampler learns from; see `search.database.knowledge`."""

OF_STUDIES = (epochs, weights, knowledge)
"""The tables of what a study has found and knows, which a copy of it has too."""


class clock(FunctionElement[float]):  # noqa: N801  # named as SQLAlchemy names functions
    """The database's clock in seconds since 1970; workers' clocks may be wrong."""

    type = Float(53)
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
