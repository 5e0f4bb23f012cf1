"""Leases: the time-limited right to run a trial.

A worker renews its lease while it lives. A lease that is not renewed expires, by the database's
clock, and another worker can take over the trial; see `search.worker.claims`.
"""

import os
import socket
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from search.database.database import Database
from search.database.liveness import ProcessIdentity
from search.database.tables import clock
from search.database.tables import leases as table


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A worker that takes leases: its unique name and its process."""

    worker: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    )
    process: ProcessIdentity = field(default_factory=ProcessIdentity.current)


@dataclass(frozen=True, kw_only=True)
class Lease:
    trial: int
    """The trial's number."""
    worker: str
    process: ProcessIdentity
    expired: bool
    batches_per_second: float | None
    """Training rate at the last renewal; None before the first batch."""


def leases(database: Database, study_key: str) -> dict[int, Lease]:
    """Return the leases of a study by trial number, including expired ones."""
    with database.engine.connect() as connection:
        return seen_by(connection, study_key)


def seen_by(connection: Connection, study_key: str) -> dict[int, Lease]:
    """Return the same as `leases`, read with the connection that holds the study's lock."""
    query = select(table, (table.c.expires_at < clock()).label("expired"))
    rows = connection.execute(query.where(table.c.study_key == study_key)).mappings().all()
    return {
        row["trial"]: Lease(
            trial=row["trial"],
            worker=row["worker"],
            process=ProcessIdentity.parse(row["process"]),
            expired=bool(row["expired"]),
            batches_per_second=row["batches_per_second"],
        )
        for row in rows
    }


def grant(
    connection: Connection, *, study_key: str, trial: int, holder: Holder, seconds: float
) -> None:
    """Lease the trial to `holder`, replacing any other lease; only under the study's lock."""
    drop(connection, study_key, {trial})
    connection.execute(
        insert(table).values(
            study_key=study_key,
            trial=trial,
            worker=holder.worker,
            process=str(holder.process),
            expires_at=clock() + seconds,
        )
    )


def drop(connection: Connection, study_key: str, trials: Collection[int]) -> None:
    """End all leases of these trials; only under the study's lock."""
    if trials:
        these = table.c.study_key == study_key, table.c.trial.in_(trials)
        connection.execute(delete(table).where(*these))


def renew(
    database: Database,
    *,
    study_key: str,
    trial: int,
    worker: str,
    seconds: float,
    batches_per_second: float | None,
) -> bool:
    """Extend the lease to `seconds` from now; return whether `worker` still holds it."""
    mine = table.c.study_key == study_key, table.c.trial == trial, table.c.worker == worker
    values = {"expires_at": clock() + seconds, "batches_per_second": batches_per_second}
    with database.engine.begin() as connection:
        return connection.execute(update(table).where(*mine).values(values)).rowcount == 1


def release(database: Database, *, study_key: str, trial: int, worker: str) -> None:
    """End the lease if `worker` still holds it, so that another can take over the trial."""
    mine = table.c.study_key == study_key, table.c.trial == trial, table.c.worker == worker
    with database.engine.begin() as connection:
        connection.execute(delete(table).where(*mine))
