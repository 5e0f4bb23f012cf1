"""Leases: the time-limited right to run a trial.

A worker renews its lease while it lives. A lease that is not renewed expires, by the database's
clock, and another worker can take over the trial; see `search.worker.claims`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select, update

from search.database.liveness import ProcessIdentity
from search.database.tables import clock
from search.database.tables import leases as table
from search.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial, and the worker to which it was leased."""

    study_key: str
    trial_id: int
    """Id in Optuna's tables."""
    number: int
    worker: str
    until: int
    """The epoch after which the trial stops: its last one, or what the budget leaves for it."""
    is_audit: bool = False
    """Whether its further epochs are outside the budget; see `search.study.study.Study.audit`."""


class LeaseLost(Exception):
    """Another worker has taken over the trial; this one must not record anything."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    trial: int
    """The trial's number."""
    worker: str
    process: ProcessIdentity
    until: int
    """As for `Claim`."""
    expired: bool
    batches_per_second: float | None
    """Training rate at the last renewal; None before the first batch."""
    is_audit: bool = False
    """As for `Claim`."""

    @property
    def is_live(self) -> bool:
        """Whether its worker may be running the trial, as far as can be known here."""
        return not self.expired and not self.process.is_dead()


def leases(connection: Connection, study_key: str) -> dict[int, Lease]:
    """Return the leases of a study by trial number, including expired ones."""
    query = select(table, (table.c.expires_at < clock()).label("expired"))
    rows = connection.execute(query.where(table.c.study_key == study_key)).mappings().all()
    return {
        row["trial"]: Lease(
            trial=row["trial"],
            worker=row["worker"],
            process=ProcessIdentity.parse(row["process"]),
            until=row["until"],
            is_audit=row["is_audit"],
            expired=bool(row["expired"]),
            batches_per_second=row["batches_per_second"],
        )
        for row in rows
    }


def n_at_work(connection: Connection, study_key: str) -> int:
    """Return the number of workers that run a trial of the study."""
    held = leases(connection, study_key).values()
    return sum(lease.is_live for lease in held)


def check_idle(connection: Connection, study_key: str) -> None:
    """Raises:
    UserError: workers are running trials of the study.
    """
    if held := n_at_work(connection, study_key):
        raise UserError(
            f"{held} worker{'s are' if held > 1 else ' is'} running trials of it; the command "
            "`stop` stops them"
        )


def grant(
    connection: Connection, claim: Claim, *, process: ProcessIdentity, seconds: float
) -> None:
    """Lease the trial to the claim's worker, replacing any other lease; only under the study's
    lock."""
    drop(connection, claim.study_key, {claim.number})
    connection.execute(
        insert(table).values(
            study_key=claim.study_key,
            trial=claim.number,
            worker=claim.worker,
            process=str(process),
            until=claim.until,
            is_audit=claim.is_audit,
            expires_at=clock() + seconds,
        )
    )


def drop(connection: Connection, study_key: str, trials: Collection[int]) -> None:
    """End all leases of these trials; only under the study's lock."""
    if trials:
        these = table.c.study_key == study_key, table.c.trial.in_(trials)
        connection.execute(delete(table).where(*these))


def check(connection: Connection, claim: Claim) -> None:
    """Check that the claim's worker holds the lease, and keep others from taking it until the end
    of the transaction.

    Raises:
        LeaseLost: it does not.
    """
    # A write, so that SQLite takes its lock before anything is read.
    if not _update(connection, claim, worker=claim.worker):
        raise LeaseLost(f"trial {claim.number} is no longer leased to {claim.worker}")


def renew(
    engine: Engine, claim: Claim, *, seconds: float, batches_per_second: float | None
) -> bool:
    """Extend the lease to `seconds` from now; return whether the claim's worker still holds it."""
    with engine.begin() as connection:
        return _update(
            connection, claim, expires_at=clock() + seconds, batches_per_second=batches_per_second
        )


def release(engine: Engine, claim: Claim) -> None:
    """End the lease if the claim's worker still holds it, so that another can take over at once."""
    with engine.begin() as connection:
        connection.execute(delete(table).where(_is_of(claim)))


def _update(connection: Connection, claim: Claim, **values: Any) -> bool:
    return connection.execute(update(table).where(_is_of(claim)).values(values)).rowcount == 1


def _is_of(claim: Claim) -> ColumnElement[bool]:
    mine = (table.c.study_key == claim.study_key) & (table.c.trial == claim.number)
    return mine & (table.c.worker == claim.worker)
