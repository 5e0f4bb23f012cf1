"""The service's own tables, which stand beside Optuna's in the same database.

Rows are keyed by a study's own key and the trial's number, which nothing changes or gives out
again, and not by Optuna's ids, which SQLite reuses and which change when a study is renamed. There
are no foreign keys to Optuna's tables, so that Optuna's own tools can delete a study; what is
recorded of it then stays, and belongs to no other.
"""

from typing import Any

from sqlalchemy import (
    JSON,
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

VERSION = 2
"""Of these tables. Version 1 had no table `search_schema`."""

metadata = MetaData()

schema = Table(
    "search_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("home", String(200), nullable=False),
)
"""One row: the version of the tables, and where the database was when they were made, by which a
copy of the database is told from the original; see `search.database.database`."""

studies = Table(
    "search_studies",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("study_id", Integer),  # Optuna's; null while the study is being created
    Column("name", String(512), nullable=False),  # when it was created or last found renamed
    Column("files", String(32), nullable=False),
)
"""The studies that this service made in this database. `files` begins the ids of all artifacts that
the study writes; it is drawn anew in a copy of the database, which leaves the original's alone."""

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
    UniqueConstraint("study_key", "trial", "number"),
    Index("ix_search_epochs_rung", "study_key", "number", "score"),
)
"""One row for each finished epoch, written once, in the order in which they were recorded. `score`
is the metric that prunes and ranks: the higher, the better."""

leases = Table(
    "search_leases",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(200), nullable=False),
    Column("process", String(200), nullable=False),  # see `search.database.liveness`
    Column("expires_at", Float(53), nullable=False),  # by the database's clock, see `clock`
    Column("batches_per_second", Float(53)),
)
"""Which worker runs which trial now, until when, and how fast."""

weights = Table(
    "search_weights",
    metadata,
    Column("study_key", String(32), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False),
    Column("artifact_id", String(200), nullable=False),
)
"""The weights that are kept: the file's SHA-256, and its name in the artifact store."""


class clock(FunctionElement[float]):  # noqa: N801  # named as SQLAlchemy names functions
    """The database's clock, in seconds since 1970: never a worker's, which may be wrong."""

    type = Float(53)
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
