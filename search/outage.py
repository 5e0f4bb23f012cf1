"""Whether an error means that the database does not answer, which passes, or that a call is wrong.

A server that restarts, a connection that is cut, a disk that is full for a while.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError


def is_outage(error: BaseException | None) -> bool:
    """Return whether `error`, or what it was raised from, is the database's going away."""
    while error is not None:
        # The last one: Optuna asks again on the connection that was cut.
        if isinstance(error, OperationalError | InterfaceError | PendingRollbackError):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
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
