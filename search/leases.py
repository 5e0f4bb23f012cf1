"""Leases: the time-limited right to run a trial.

A lease is measured by the database's clock. It is renewed while its worker lives; one that is not
renewed expires, and its trial can be taken over. Whether a trial without a lease may be run is for
`search.claims`.
"""

from collections.abc import Set
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from search.storage import Database
from search.tables import clock
from search.tables import leases as table


@dataclass(frozen=True, kw_only=True)
class Lease:
    trial_id: int
    worker: str
    expired: bool
    batches_per_second: float | None
    """Rate of training at the last renewal; None while nothing was trained yet."""


def leases(database: Database, study_id: int) -> dict[int, Lease]:
    """Return the leases of a study by trial id, the expired ones among them."""
    with database.engine.connect() as connection:
        return seen_by(connection, study_id)


def seen_by(connection: Connection, study_id: int) -> dict[int, Lease]:
    """Return the same as `leases` does, asked with the connection that holds the study's lock."""
    query = select(table, (table.c.expires_at < clock()).label("expired"))
    rows = connection.execute(query.where(table.c.study_id == study_id)).mappings().all()
    return {
        row["trial_id"]: Lease(
            trial_id=row["trial_id"],
            worker=row["worker"],
            expired=bool(row["expired"]),
            batches_per_second=row["batches_per_second"],
        )
        for row in rows
    }


def grant(
    connection: Connection, *, study_id: int, trial_id: int, worker: str, seconds: float
) -> None:
    """Give the trial to `worker`, whoever had it; only under the study's lock."""
    drop(connection, {trial_id})
    connection.execute(
        insert(table).values(
            study_id=study_id,
            trial_id=trial_id,
            worker=worker,
            expires_at=clock() + seconds,
        )
    )


def drop(connection: Connection, trial_ids: Set[int]) -> None:
    """End the leases of these trials, whoever has them; only under the study's lock."""
    if trial_ids:
        connection.execute(delete(table).where(table.c.trial_id.in_(trial_ids)))


def renew(
    database: Database,
    *,
    trial_id: int,
    worker: str,
    seconds: float,
    batches_per_second: float | None,
) -> bool:
    """Extend the lease to `seconds` from now; return whether it was still `worker`'s."""
    mine = table.c.trial_id == trial_id, table.c.worker == worker
    values = {"expires_at": clock() + seconds, "batches_per_second": batches_per_second}
    with database.engine.begin() as connection:
        return connection.execute(update(table).where(*mine).values(values)).rowcount == 1


def release(database: Database, *, trial_id: int, worker: str) -> None:
    """End the lease if it is still `worker`'s, so that the trial can be taken over."""
    mine = table.c.trial_id == trial_id, table.c.worker == worker
    with database.engine.begin() as connection:
        connection.execute(delete(table).where(*mine))
