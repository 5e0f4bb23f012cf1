"""Whether an error means that the database does not answer, which passes, or that a call is wrong;
and for how long it has not.

A server that restarts, a connection that is cut, a disk that is full for a while.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

REFUSED = ("42501", "25006")
"""PostgreSQL's codes of a privilege that lacks, and of a write in a read-only transaction."""
OUTAGE_SECONDS = 600.0
"""So long a worker waits for a database that does not answer."""

log = logging.getLogger(__name__)


class DatabaseGone(Exception):
    """The database has not answered for long; the message says why, without its password."""


def is_outage(error: BaseException | None) -> bool:
    """Return whether `error`, or what it was raised from, is the database's going away."""
    while error is not None:
        # SQLite's driver calls a table or a column that is not there the same.
        if isinstance(error, OperationalError | sqlite3.OperationalError):
            text = str(getattr(error, "orig", error))
            return "no such" not in text and "readonly database" not in text
        # The last one: Optuna asks again on the connection that was cut.
        if isinstance(error, InterfaceError | PendingRollbackError):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


def is_refusal(error: BaseException | None) -> bool:
    """Return whether `error`, or what it was raised from, is that this user or role may not write
    or read there."""
    while error is not None:
        if isinstance(error, DBAPIError):
            state = getattr(error.orig, "sqlstate", None)
            return state in REFUSED or "readonly database" in str(error.orig)
        error = error.__cause__
    return False


@contextmanager
def tolerating_outage() -> Iterator[None]:
    """Leave the block undone if the database does not answer."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise


def first_line(error: BaseException) -> str:
    """Return what the driver says, in one line and without the statement or its parameters."""
    while error.__cause__ is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    return " ".join(str(getattr(error, "orig", None) or error).split())


class Outage:
    """How long the database has not answered."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_over(self) -> None:
        self._since = None

    def goes_on(self, error: Exception) -> None:
        """Raise `DatabaseGone` if it has lasted too long."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning(
                "the database does not answer; trying again for %d minutes: %s",
                OUTAGE_SECONDS / 60,
                first_line(error),
            )
        elif time.monotonic() - self._since > OUTAGE_SECONDS:
            raise DatabaseGone(
                f"the database has not answered for {OUTAGE_SECONDS / 60:.0f} minutes; the same "
                f"command goes on where it was: {first_line(error)}"
            ) from error
