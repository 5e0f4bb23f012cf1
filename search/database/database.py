"""The SQL database of the studies: one SQLite file, or PostgreSQL.

Optuna's tables are reached through Optuna's storage, the service's own through `Database`, which
creates the tables, holds the locks and records epochs. See `search.database.url` for the accepted
URLs, and `search.database.leases` and `search.worker.claims` for who may run a trial.
"""

import hashlib
import logging
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import URL, ColumnElement, Connection, func, insert, select, update

from search.database import artifact_lists, leases, optuna_internals, tables
from search.database.artifact_lists import Listed
from search.database.dialects import home_of, lift_limits, visible_tables, without_limits
from search.database.leases import Claim
from search.database.url import (
    check,
    engine_options,
    explaining,
    refuse_others,
    resolved,
    shown,
)
from search.errors import UserError
from search.study.metrics import Epoch
from search.study.trial_attributes import ENVIRONMENTS

log = logging.getLogger(__name__)

LOCK_SECONDS = 60
"""PostgreSQL ends a session that is idle in a transaction for this long, which frees its lock.
Locks are normally held for milliseconds."""
POLL_SECONDS = 0.002
"""How often SQLite's lock file is tried; locks are held for milliseconds."""
POOL_SECONDS = 600
"""Time that a thread waits for a free connection of its process."""


class Database:
    """An open database; missing tables are created unless `may_create` is False.

    Any number of processes may open it at once, even while it is empty. It holds at most
    `connections` connections: one for locks, the rest for everything else.

    Raises:
        UserError: the URL is malformed, the database cannot be reached or used, or it holds other
            tables or tables of another version.
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
            with self.lock("schema") as connection:
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
        self.optuna: BaseStorage = optuna_internals.RereadableStorage(storage)
        self.uncached = storage

    def __str__(self) -> str:
        return self._shown

    def close(self) -> None:
        self.engine.dispose()
        self._locks.dispose()

    @contextmanager
    def lock(self, name: str) -> Iterator[Connection]:
        """Hold the lock called `name` across all processes; yield a connection to write with.

        Writes on the connection are committed when the lock is released. Write with it last: on
        SQLite it then blocks Optuna's own connection. The lock of a killed process is released.
        SQLite has a single lock for all names.
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
        claim: Claim,
        epoch: Epoch,
        checkpoint_sha256: str | None,
        listed: Listed | None = None,
        *,
        score: float,
    ) -> list[str]:
        """Record an epoch of the claimed trial; `score` is as in `search.database.tables.epochs`.

        An epoch that was already recorded is kept. `listed` replaces the list of the trial's files,
        None leaves it unchanged. Return the ids of the files that are no longer listed.

        Raises:
            LeaseLost: another worker has the trial; nothing is written.
        """
        epochs = tables.epochs
        with self.engine.begin() as connection:
            leases.check(connection, claim)
            if connection.scalar(select(epochs.c.id).where(_is(claim, epoch.number))):
                return []
            connection.execute(
                insert(epochs).values(
                    study_key=claim.study_key,
                    trial=claim.number,
                    number=epoch.number,
                    score=score,
                    metrics=dict(epoch.metrics),
                    seconds=epoch.seconds,
                    checkpoint_sha256=checkpoint_sha256,
                    is_audit=claim.is_audit,
                )
            )
            return [] if listed is None else artifact_lists.replace(connection, listed)

    def note_environments(
        self,
        claim: Claim,
        environments: Sequence[Mapping[str, object]],
        attributes: Mapping[str, object],
    ) -> None:
        """Store where the claimed trial was trained, and user attributes; None removes one.

        Raises:
            LeaseLost: another worker has the trial; nothing is written.
        """
        with self.engine.begin() as connection:
            leases.check(connection, claim)
            optuna_internals.set_system_attribute(
                connection, claim.trial_id, ENVIRONMENTS, environments
            )
            optuna_internals.set_user_attributes(connection, claim.trial_id, attributes)

    def epochs(self, study_key: str, trial: int) -> list[Epoch]:
        """Return the recorded epochs of the trial number `trial`, in order."""
        return self.epochs_of_study(study_key, [trial]).get(trial, [])

    def epochs_of_study(
        self, study_key: str, trials: Collection[int] | None = None
    ) -> dict[int, list[Epoch]]:
        """Return the recorded epochs by trial number, in order; of all trials, or only `trials`."""
        table = tables.epochs
        query = select(table).where(table.c.study_key == study_key).order_by(table.c.number)
        if trials is not None:
            query = query.where(table.c.trial.in_(trials))
        found: dict[int, list[Epoch]] = {}
        with self.engine.connect() as connection:
            for row in connection.execute(query):
                epoch = Epoch(number=row.number, metrics=row.metrics, seconds=row.seconds)
                found.setdefault(row.trial, []).append(epoch)
        return found

    def places(self, study_key: str, trials: Collection[int]) -> dict[tuple[int, int], int]:
        """Return the place of each epoch of these trials among all that were recorded, by trial
        and number."""
        table = tables.epochs.c
        query = select(table.trial, table.number, table.id).where(
            table.study_key == study_key, table.trial.in_(trials)
        )
        with self.engine.connect() as connection:
            return {(row.trial, row.number): row.id for row in connection.execute(query)}

    def checkpoint_sha256(self, claim: Claim, number: int) -> str | None:
        """Return the SHA-256 of the file written after epoch `number`; None if none was written.

        The file is a checkpoint, or after the last epoch the trial's weights.
        """
        query = select(tables.epochs.c.checkpoint_sha256).where(_is(claim, number))
        with self.engine.connect() as connection:
            return connection.scalar(query)

    def _prepare(self, connection: Connection, may_create: bool) -> None:
        """Create the service's own tables if they are missing, and detect a copied database."""
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
    """Return 16 random hexadecimal digits."""
    return uuid.uuid4().hex[:16]


def _is(claim: Claim, number: int) -> ColumnElement[bool]:
    c = tables.epochs.c
    return (c.study_key == claim.study_key) & (c.trial == claim.number) & (c.number == number)


def _of_version(database: Database, version: int) -> str:
    return (
        f"--storage {database}: its tables are of version {version} of this service, and version "
        f"{tables.VERSION} is needed; name another database"
    )


def _as_template(url: URL) -> str:
    """Return the URL with its braces doubled, since Optuna treats it as a template."""
    text = url.render_as_string(hide_password=False)
    return text.replace("{", "{{").replace("}", "}}")


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _lock(connection: Connection, name: str) -> None:
    """Take PostgreSQL's lock `name` until the end of the transaction, waiting as long as needed."""
    lift_limits(connection)
    # The server then takes the lock from a process that is suspended while it holds it.
    limit = "idle_in_transaction_session_timeout", f"{LOCK_SECONDS}s", True
    lock = func.pg_advisory_xact_lock(_lock_key(name))
    connection.execute(select(func.set_config(*limit), lock))


def _file_lock(url: URL) -> FileLock:
    """Return the lock file beside the database, with the same permissions."""
    path, lock = Path(str(url.database)), Path(f"{url.database}.lock")
    if path.exists() and lock.exists() and lock.stat().st_mode != path.stat().st_mode:
        with suppress(PermissionError):  # the file belongs to another user
            lock.chmod(path.stat().st_mode & 0o777)
    # No soft lock: it would stay behind when its holder is killed.
    return FileLock(
        lock, poll_interval=POLL_SECONDS, fallback_to_soft=False, preserve_lock_file=True
    )


def _lock_key(name: str) -> int:
    """Return the 63-bit number by which PostgreSQL knows the lock `name`."""
    return int.from_bytes(hashlib.sha256(f"search/{name}".encode()).digest()[:8], "big") >> 1
