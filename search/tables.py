"""The service's own tables, which stand beside Optuna's in the same database.

They refer to Optuna's rows by study_id and trial_id without foreign keys, so that Optuna's own
tools can delete a study; rows left behind are removed when the id is given out again.
"""

from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData()

epochs = Table(
    "search_epochs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study_id", Integer, nullable=False),
    Column("trial_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("batch_loss", Float(53), nullable=False),
    Column("train_loss", Float(53)),
    Column("train_accuracy", Float(53)),
    Column("validation_loss", Float(53)),
    Column("validation_accuracy", Float(53)),
    Column("test_loss", Float(53)),
    Column("test_accuracy", Float(53)),
    Column("seconds", Float(53), nullable=False),
    Column("checkpoint_sha256", String(64)),
    UniqueConstraint("trial_id", "number"),
)
"""One row for each finished epoch, written once; the columns are those of `search.epoch.Epoch`."""

selection_accuracy = func.coalesce(epochs.c.validation_accuracy, epochs.c.test_accuracy)
"""As `search.epoch.Epoch.selection_accuracy`."""

Index("ix_search_epochs_rung", epochs.c.study_id, epochs.c.number, selection_accuracy)

leases = Table(
    "search_leases",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("study_id", Integer, nullable=False, index=True),
    Column("worker", String(200), nullable=False),
    Column("expires_at", Float(53), nullable=False),  # by the database's clock, see `clock`
    Column("batches_per_second", Float(53)),
)
"""Who runs which trial now, until when, and how fast."""

weights = Table(
    "search_weights",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("study_id", Integer, nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("artifact_id", String(200), nullable=False),
)
"""The weights that are kept: the file's sum, and its name in the artifact store."""


def create(engine: Engine) -> None:
    """Make the tables that are not there, and the indexes that older ones lack."""
    metadata.create_all(engine)
    with engine.begin() as connection:
        for table in metadata.tables.values():
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


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
