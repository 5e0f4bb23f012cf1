"""Tells temporary database outages from programming errors, and measures how long one lasts.

Outages are server restarts, lost connections, and disks that are full for a while.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

REFUSED = ("42501", "25006")
"""PostgreSQL's codes for a missing privilege and for a write in a read-only transaction."""
OUTAGE_SECONDS = 600.0
"""How long a worker waits for a database that does not answer."""

log = logging.getLogger(__name__)


class DatabaseGone(Exception):
    """The outage has lasted too long; the message gives the cause, without the password."""


def is_outage(error: BaseException | None) -> bool:
    """Return whether `error`, or its cause, is a database outage."""
    while error is not None:
        # SQLite's driver raises the same error for a missing table or column.
        if isinstance(error, OperationalError | sqlite3.OperationalError):
            text = str(getattr(error, "orig", error))
            return "no such" not in text and "readonly database" not in text
        # PendingRollbackError: Optuna retries on the lost connection.
        if isinstance(error, InterfaceError | PendingRollbackError):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


def is_refusal(error: BaseException | None) -> bool:
    """Return whether `error`, or its cause, is a missing permission."""
    while error is not None:
        if isinstance(error, DBAPIError):
            state = getattr(error.orig, "sqlstate", None)
            return state in REFUSED or "readonly database" in str(error.orig)
        error = error.__cause__
    return False


@contextmanager
def tolerating_outage() -> Iterator[None]:
    """Skip the rest of the block if the database does not answer."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise


def first_line(error: BaseException) -> str:
    """Return the driver's message in one line, without the statement and its parameters."""
    while error.__cause__ is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    return " ".join(str(getattr(error, "orig", None) or error).split())


class Outage:
    """Measures how long the database has not answered."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_over(self) -> None:
        if self._since is not None:
            seconds = round(time.monotonic() - self._since)
            log.warning("the database answers again, after %d seconds", seconds)
        self._since = None

    def note(self, error: Exception) -> None:
        """Log the first error of an outage; raise any other error again.

        Raises:
            DatabaseGone: the outage has lasted longer than `OUTAGE_SECONDS`.
        """
        if not is_outage(error):
            raise error
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
                f"command resumes the search: {first_line(error)}"
            ) from error
