"""The SQL database of the studies: SQLite in one file, or PostgreSQL.

Optuna's tables are reached through Optuna's storage, the service's own through `Database`. This
module makes the tables, holds the locks and keeps the figures of each epoch; which URLs are taken
is for `search.storage_url`, who runs a trial for `search.leases` and `search.claims`.
"""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import URL, ColumnElement, Connection, delete, func, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from search import listing, tables
from search.epoch import Epoch
from search.errors import UserError
from search.listing import Listed
from search.storage_url import check, engine_options, explained

LOCK_SECONDS = 60
"""So long PostgreSQL lets a process have a lock and ask nothing; it is held for milliseconds."""


class LeaseLost(Exception):
    """The trial is another worker's by now: its figures are no longer ours to record."""


class Database:
    """An opened database, its tables made if it had none.

    Any number of processes may open it at once, also while it is empty.

    Raises:
        UserError: the URL is malformed, or what it names cannot be reached or holds other tables.
    """

    def __init__(self, url: str) -> None:
        self.url = check(url)
        # Optuna fills a template into URLs, so braces must be doubled.
        text = self.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        options = engine_options(self.url)
        try:
            # Optuna's own creation of its tables fails when several processes run it together.
            with _schema_lock(self.url), ExitStack() as failed:
                # Optuna adds tables before it looks at the schema's version, even to a database
                # of another version; a database that has a version has its tables.
                versioned = _has_table(self.url, "alembic_version")
                storage = RDBStorage(
                    text,
                    engine_kwargs=options,
                    skip_table_creation=versioned,
                    skip_compatibility_check=True,
                )
                failed.callback(storage.engine.dispose)
                _check_version(self.url, storage)
                tables.create(storage.engine)
                failed.pop_all()
        except (DBAPIError, OSError) as error:
            raise UserError(explained(self.url, error)) from error
        self.engine = storage.engine
        self.optuna: BaseStorage = get_storage(storage)
        self.uncached = storage

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def lock(self, name: str) -> Iterator[Connection]:
        """Hold the one lock called `name`, across all processes; yield a connection to write with.

        What is written with the connection is there once the lock is given back, or not at all.
        Write with it last: on SQLite it keeps Optuna's own connection from writing. A process
        that is killed gives the lock back. SQLite has one lock for all names.
        """
        if self.url.get_backend_name() == "sqlite":
            with _file_lock(self.url), self.engine.begin() as connection:
                yield connection
        else:
            with self.engine.begin() as connection:
                # The server takes the lock from a process that is stopped while it has it.
                limit = "idle_in_transaction_session_timeout", f"{LOCK_SECONDS}s", True
                lock = func.pg_advisory_xact_lock(_lock_key(name))
                connection.execute(select(func.set_config(*limit), lock))
                yield connection

    @contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold the lock called `name` as `lock` does, unless another process has it.

        Yield whether it is held.
        """
        if self.url.get_backend_name() == "sqlite":
            lock = _file_lock(self.url)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                yield False
                return
            try:
                yield True
            finally:
                lock.release()
        else:
            with self.engine.begin() as connection:
                yield bool(
                    connection.scalar(select(func.pg_try_advisory_xact_lock(_lock_key(name))))
                )

    def record(
        self,
        trial_id: int,
        worker: str,
        epoch: Epoch,
        checkpoint_sha256: str | None,
        listed: Listed | None = None,
    ) -> list[str]:
        """Keep `epoch` if the trial is still `worker`'s; an epoch that is there stays as it is.

        `listed` None: the list of the trial's files stays as it is. Return the ids of those that
        are not listed any more.

        Raises:
            LeaseLost: the trial is no longer leased to `worker`; nothing is written.
        """
        leases, epochs = tables.leases, tables.epochs
        with self.engine.begin() as connection:
            # The update comes first: it makes SQLite take the write lock before anything is read.
            study_id = connection.scalar(
                update(leases)
                .where(leases.c.trial_id == trial_id, leases.c.worker == worker)
                .values(worker=worker)
                .returning(leases.c.study_id)
            )
            if study_id is None:
                raise LeaseLost(f"trial {trial_id} is no longer leased to {worker}")
            there = epochs.c.trial_id == trial_id, epochs.c.number == epoch.number
            if connection.scalar(select(epochs.c.id).where(*there)) is None:
                row = asdict(epoch) | {"checkpoint_sha256": checkpoint_sha256}
                connection.execute(
                    insert(epochs).values(study_id=study_id, trial_id=trial_id, **row)
                )
            return [] if listed is None else listing.replace(connection, trial_id, listed)

    def epochs(self, trial_id: int) -> list[Epoch]:
        """Return the recorded epochs of a trial in order."""
        return self._epochs(tables.epochs.c.trial_id == trial_id).get(trial_id, [])

    def epochs_of_study(
        self, study_id: int, trial_ids: Collection[int] | None = None
    ) -> dict[int, list[Epoch]]:
        """Return the recorded epochs in order by trial id: of all trials, or of `trial_ids`."""
        where = tables.epochs.c.study_id == study_id
        if trial_ids is not None:
            where &= tables.epochs.c.trial_id.in_(trial_ids)
        return self._epochs(where)

    def checkpoint_sha256(self, trial_id: int, number: int) -> str | None:
        """Return the SHA-256 of the state after epoch `number`; None if none was written.

        After the last epoch that is the file of the trial's weights, before it a checkpoint.
        """
        epochs = tables.epochs
        query = select(epochs.c.checkpoint_sha256).where(
            epochs.c.trial_id == trial_id, epochs.c.number == number
        )
        with self.engine.connect() as connection:
            return connection.scalar(query)

    def forget(self, study_id: int) -> None:
        """Remove the rows that a deleted study left behind when its id is given out again."""
        with self.engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                connection.execute(delete(table).where(table.c.study_id == study_id))

    def disown(self, connection: Connection, study_id: int, trial_id: int) -> None:
        """Remove the rows that a deleted study's trial left behind when its id is given out again;
        only under the study's lock."""
        for table in tables.metadata.sorted_tables:
            strange = table.c.trial_id == trial_id, table.c.study_id != study_id
            connection.execute(delete(table).where(*strange))

    def _epochs(self, where: ColumnElement[bool]) -> dict[int, list[Epoch]]:
        names = [field.name for field in fields(Epoch)]
        query = select(tables.epochs).where(where).order_by(tables.epochs.c.number)
        found: dict[int, list[Epoch]] = {}
        with self.engine.connect() as connection:
            for row in connection.execute(query).mappings():
                epoch = Epoch(**{name: row[name] for name in names})
                found.setdefault(row["trial_id"], []).append(epoch)
        return found


def _check_version(url: URL, storage: RDBStorage) -> None:
    there, needed = storage.get_current_version(), storage.get_head_version()
    if there != needed:
        raise UserError(
            f"--storage {url.render_as_string(hide_password=True)}: its tables are of schema "
            f"{there}, and this Optuna needs {needed}; `optuna storage upgrade` brings older ones "
            "up, or name another database"
        )


def _has_table(url: URL, name: str) -> bool:
    engine = sqlalchemy.create_engine(url, **engine_options(url), poolclass=NullPool)
    return inspect(engine).has_table(name)


@contextmanager
def _schema_lock(url: URL) -> Iterator[None]:
    if url.get_backend_name() == "sqlite":
        with _file_lock(url):
            yield
        return
    engine = sqlalchemy.create_engine(url, **engine_options(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_lock_key("schema"))))
        yield


def _file_lock(url: URL) -> FileLock:
    # Without the fallback, which leaves its file behind when the holder is killed.
    return FileLock(f"{url.database}.lock", fallback_to_soft=False, preserve_lock_file=True)


def _lock_key(name: str) -> int:
    """Return the 63-bit number by which PostgreSQL knows the lock `name`."""
    return int.from_bytes(hashlib.sha256(f"search/{name}".encode()).digest()[:8], "big") >> 1
