"""The SQL database of the studies: SQLite in one file, or PostgreSQL.

Optuna's tables are reached through Optuna's storage, the service's own through `Database`. This
module makes the tables, holds the locks and keeps the figures of each epoch; which URLs are taken
is for `search.database.url`, who runs a trial for `search.database.leases` and
`search.worker.claims`.
"""

import hashlib
import logging
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import URL, ColumnElement, Connection, func, insert, select, update

from search.database import artifact_lists, optuna_internals, tables
from search.database.artifact_lists import Listed
from search.database.dialects import home_of, lift_limits, visible_tables, without_limits
from search.database.url import (
    check,
    engine_options,
    explaining,
    refuse_others,
    resolved,
    shown,
)
from search.errors import UserError
from search.study.epoch import Epoch

log = logging.getLogger(__name__)

LOCK_SECONDS = 60
"""PostgreSQL ends a session that is idle in its transaction for this long, which frees its lock.
Locks are normally held for milliseconds."""
POOL_SECONDS = 600
"""How long a thread waits for one of the process's connections."""


class LeaseLost(Exception):
    """The trial is another worker's by now: its figures are no longer ours to record."""


class Database:
    """An opened database, its tables created if it had none.

    Any number of processes may open it at once, also while it is empty. At most `connections` are
    held at a time, while it is opened too: one for locks, and the others for all else. Whoever
    `may_create` nothing, but look, leaves a database without the service's tables as it is.

    Raises:
        UserError: the URL is malformed, what it names cannot be reached or used, or holds other
            tables or those of another version.
    """

    def __init__(self, url: str, *, connections: int = 2, may_create: bool = True) -> None:
        self.url = resolved(url)
        self._shown = shown(url)
        if _is_sqlite(self.url):
            check(url)  # by reading alone, since a connection that may write changes the file
        options = engine_options(self.url) | {"max_overflow": 0, "pool_timeout": POOL_SECONDS}
        with explaining(self.url), ExitStack() as failed:
            self._locks = sqlalchemy.create_engine(self.url, **options, pool_size=1)
            failed.callback(self._locks.dispose)
            with self._locked_schema() as connection:
                refuse_others(connection, self._shown)
                optuna_internals.prepare_tables(connection, self._shown)
                self._prepare(connection, may_create)
            storage = RDBStorage(
                _as_template(self.url),
                engine_kwargs=options | {"pool_size": connections - 1},
                skip_table_creation=True,
                skip_compatibility_check=True,
            )
            failed.callback(storage.engine.dispose)
            if not _is_sqlite(self.url):
                with self._locks.connect() as connection:
                    without_limits(connection, storage.engine)
            failed.pop_all()
        self.engine = storage.engine
        self.optuna: BaseStorage = optuna_internals.cached(storage)
        self.uncached = storage

    def __str__(self) -> str:
        return self._shown

    def close(self) -> None:
        self.engine.dispose()
        self._locks.dispose()

    @contextmanager
    def lock(self, name: str) -> Iterator[Connection]:
        """Hold the one lock called `name`, across all processes; yield a connection to write with.

        What is written with the connection is there once the lock is given back, or not at all.
        Write with it last: on SQLite it keeps Optuna's own connection from writing. A process
        that is killed gives the lock back. SQLite has one lock for all names.
        """
        if _is_sqlite(self.url):
            with _file_lock(self.url), self._locks.begin() as connection:
                yield connection
        else:
            with self._locks.begin() as connection:
                _lock(connection, name)
                yield connection

    def record(
        self,
        study_key: str,
        trial: int,
        worker: str,
        epoch: Epoch,
        checkpoint_sha256: str | None,
        listed: Listed | None = None,
    ) -> list[str]:
        """Keep `epoch` of the trial of that number if it is still `worker`'s; an epoch that is
        there stays as it is.

        `listed` None: the list of the trial's files stays as it is. Return the ids of those that
        are not listed any more.

        Raises:
            LeaseLost: the trial is no longer leased to `worker`; nothing is written.
        """
        leases, epochs = tables.leases, tables.epochs
        with self.engine.begin() as connection:
            # The update comes first: it makes SQLite take the write lock before anything is read.
            mine = leases.c.trial == trial, leases.c.worker == worker
            held = connection.execute(
                update(leases).where(leases.c.study_key == study_key, *mine).values(worker=worker)
            )
            if not held.rowcount:
                raise LeaseLost(f"trial {trial} is no longer leased to {worker}")
            if connection.scalar(select(epochs.c.id).where(_is(study_key, trial, epoch.number))):
                return []
            connection.execute(
                insert(epochs).values(
                    study_key=study_key,
                    trial=trial,
                    checkpoint_sha256=checkpoint_sha256,
                    **epoch_row(epoch),
                )
            )
            return [] if listed is None else artifact_lists.replace(connection, listed)

    def epochs(self, study_key: str, trial: int) -> list[Epoch]:
        """Return the recorded epochs of the trial of that number, in order."""
        return self.epochs_of_study(study_key, [trial]).get(trial, [])

    def epochs_of_study(
        self, study_key: str, trials: Collection[int] | None = None
    ) -> dict[int, list[Epoch]]:
        """Return the recorded epochs in order by the trial's number: of all, or of `trials`."""
        table = tables.epochs
        query = select(table).where(table.c.study_key == study_key).order_by(table.c.number)
        if trials is not None:
            query = query.where(table.c.trial.in_(trials))
        found: dict[int, list[Epoch]] = {}
        with self.engine.connect() as connection:
            for row in connection.execute(query):
                epoch = Epoch(number=row.number, seconds=row.seconds, **row.metrics)
                found.setdefault(row.trial, []).append(epoch)
        return found

    def checkpoint_sha256(self, study_key: str, trial: int, number: int) -> str | None:
        """Return the SHA-256 of the state after epoch `number`; None if none was written.

        After the last epoch that is the file of the trial's weights, before it a checkpoint.
        """
        query = select(tables.epochs.c.checkpoint_sha256).where(_is(study_key, trial, number))
        with self.engine.connect() as connection:
            return connection.scalar(query)

    @contextmanager
    def _locked_schema(self) -> Iterator[Connection]:
        """Hold the lock under which tables are created."""
        with ExitStack() as stack:
            if _is_sqlite(self.url):
                stack.enter_context(_file_lock(self.url))
            connection = stack.enter_context(self._locks.begin())
            if not _is_sqlite(self.url):
                _lock(connection, "schema")
            yield connection

    def _prepare(self, connection: Connection, may_create: bool) -> None:
        """Create the service's own tables if there are none, and find a copied database out."""
        home = home_of(self.url, connection)
        there = visible_tables(connection)
        if "trial_id" in there.get(tables.epochs.name, ()):
            raise UserError(_of_version(self, 1))
        if not may_create and tables.schema.name not in there:
            return
        if any(name not in there for name in tables.metadata.tables):
            tables.metadata.create_all(connection)
        row = connection.execute(select(tables.schema)).one_or_none()
        if row is None:
            connection.execute(insert(tables.schema).values(version=tables.VERSION, home=home))
        elif row.version != tables.VERSION:
            raise UserError(_of_version(self, row.version))
        elif row.home != home and may_create:
            log.warning(
                "%s is a copy, or was moved: the files that its studies have in --artifacts may "
                "belong to the original, and stay there",
                self,
            )
            connection.execute(update(tables.schema).values(home=home))
            for key in connection.scalars(select(tables.studies.c.study_key)).all():
                connection.execute(
                    update(tables.studies)
                    .where(tables.studies.c.study_key == key)
                    .values(files=new_key())
                )


def new_key() -> str:
    """Return 16 hexadecimal digits that nothing else has."""
    return uuid.uuid4().hex[:16]


def epoch_row(epoch: Epoch) -> dict[str, Any]:
    """Return the columns of `search.database.tables.epochs` that hold an epoch."""
    metrics = {name: value for name, value in asdict(epoch).items() if value is not None}
    return {
        "number": metrics.pop("number"),
        "seconds": metrics.pop("seconds"),
        "score": epoch.selection_accuracy,
        "metrics": metrics,
    }


def _is(study_key: str, trial: int, number: int) -> ColumnElement[bool]:
    c = tables.epochs.c
    return (c.study_key == study_key) & (c.trial == trial) & (c.number == number)


def _of_version(database: Database, version: int) -> str:
    return (
        f"--storage {database}: its tables are of version {version} of this service, and version "
        f"{tables.VERSION} is needed; name another database"
    )


def _as_template(url: URL) -> str:
    """Return the URL as Optuna takes it, which fills a template into its braces."""
    text = url.render_as_string(hide_password=False)
    return text.replace("{", "{{").replace("}", "}}")


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _lock(connection: Connection, name: str) -> None:
    """Take PostgreSQL's lock `name` until the end of the transaction, however long that takes."""
    lift_limits(connection)
    # The server takes the lock from a process that is stopped while it has it.
    limit = "idle_in_transaction_session_timeout", f"{LOCK_SECONDS}s", True
    lock = func.pg_advisory_xact_lock(_lock_key(name))
    connection.execute(select(func.set_config(*limit), lock))


def _file_lock(url: URL) -> FileLock:
    """Return the lock beside the database's file; whoever may write the one may lock the other."""
    path, lock = Path(str(url.database)), Path(f"{url.database}.lock")
    if path.exists() and lock.exists() and lock.stat().st_mode != path.stat().st_mode:
        with suppress(PermissionError):  # another user's: it is theirs to change
            lock.chmod(path.stat().st_mode & 0o777)
    # Without the fallback, which leaves its file behind when the holder is killed.
    return FileLock(lock, fallback_to_soft=False, preserve_lock_file=True)


def _lock_key(name: str) -> int:
    """Return the 63-bit number by which PostgreSQL knows the lock `name`."""
    return int.from_bytes(hashlib.sha256(f"search/{name}".encode()).digest()[:8], "big") >> 1
