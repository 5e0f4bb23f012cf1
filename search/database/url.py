"""The URL of a database: parsing, checks before anything is written, and connection options."""

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import URL, Connection, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from search.database.dialects import lift_limits, tables_beside_new_ones, visible_tables
from search.database.file_system import is_mount_point, network_kind
from search.database.optuna_internals import COLUMNS
from search.database.outage import first_line
from search.errors import UserError

BUSY_SECONDS = 60
"""How long SQLite waits for a write of another process."""
CONNECT_SECONDS = 10
ROOM_BYTES = 1 << 20
"""A disk with less free space is full for SQLite's log."""

T = TypeVar("T")


def check(
    url: str,
    *,
    must_exist: bool = False,
    look: Callable[[Connection], T | None] = lambda connection: None,
) -> T | None:
    """Check that the database at `url` can be used, and return what `look` finds in it; write
    nothing.

    It must be empty or hold Optuna's tables; `look` may raise `UserError` too. A SQLite file need
    not exist unless `must_exist`; None is returned if it does not.

    Raises:
        UserError: the URL is malformed, or the database cannot be reached or holds other tables.
    """
    parsed = resolved(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and not Path(str(parsed.database)).exists():
        if must_exist:
            raise UserError(
                f"--storage {url}: there is no such file in {Path.cwd()}; name the database of a "
                "search"
            )
        return None
    options, readable = engine_options(parsed), parsed
    if is_sqlite:
        readable = make_url(f"sqlite:///file:{quote(str(parsed.database))}?mode=ro&uri=true")
        options = {"connect_args": {"timeout": BUSY_SECONDS}}
    with explaining(parsed):
        engine = sqlalchemy.create_engine(readable, **options, poolclass=NullPool)
        with engine.connect() as connection:
            refuse_others(connection, shown(url))
            return look(connection)


def resolved(url: str) -> URL:
    """Return the canonical URL of the database.

    A SQLite file is named by its real path, so that all its names share one lock.

    Raises:
        UserError: the URL is malformed, or no database can be at its path.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # a port that is no number is a ValueError
        plain = re.fullmatch(r"[\w./-]+", url)  # no place for a password
        raise UserError(
            "--storage, or SEARCH_STORAGE, is a URL such as sqlite:///search.db or "
            f"postgresql://user:password@host/database, not {repr(url) if plain else 'that'}"
        ) from error
    if parsed.drivername.startswith("sqlite") and parsed.query:
        raise UserError(
            "--storage: a SQLite URL takes nothing after a ?, as in sqlite:///search.db"
        )
    if "@" in (parsed.host or "") or {"password", "sslpassword"} & parsed.query.keys():
        raise UserError(
            "--storage: a password stands before the host, as in "
            "postgresql://user:password@host/database, with @ in it written %40"
        )
    backend = parsed.drivername.partition("+")[0]
    if backend == "sqlite":
        return _resolved_file(parsed)
    if backend not in ("postgresql", "postgres"):
        raise UserError(f"--storage: SQLite and PostgreSQL are known, not {backend!r}")
    return parsed.set(drivername="postgresql+psycopg")


@contextmanager
def explaining(url: URL) -> Iterator[None]:
    """Turn errors from opening the database at `url` into one line.

    Raises:
        UserError: with the reason.
    """
    try:
        yield
    except UserError:
        raise
    except (ImportError, NoSuchModuleError) as error:
        raise UserError(
            "--storage: PostgreSQL needs psycopg 3: pip install 'psycopg[binary]>=3.3'"
        ) from error
    # The last two come from options that the driver does not accept.
    except (SQLAlchemyError, StorageInternalError, OSError, TypeError, ValueError) as error:
        raise UserError(explained(url, error)) from error


def refuse_others(connection: Connection, storage: str) -> None:
    """Refuse a database with other tables than those of some version of Optuna.

    Raises:
        UserError: naming the database as `storage`.
    """
    if connection.dialect.name == "postgresql":
        lift_limits(connection)
        if connection.scalar(text("SELECT current_schema()")) is None:
            raise UserError(
                f"--storage {storage}: the search_path of this role names no schema that is there; "
                "set it, as by ALTER ROLE … SET search_path = public"
            )
    visible, tables = visible_tables(connection), tables_beside_new_ones(connection)
    first = ("studies", "version_info")  # an interrupted creation leaves only some of Optuna's
    whole = all(visible.get(name, set()) >= COLUMNS[name] for name in first)
    if not whole and any(COLUMNS.get(name) != columns for name, columns in tables.items()):
        raise UserError(
            f"--storage {storage}: this database holds other tables "
            f"({', '.join(sorted(tables)[:3])}, …); name an empty one"
        )


def shown(url: str) -> str:
    """Return `url`, which `resolved` has accepted, with its password masked."""
    return make_url(url).render_as_string(hide_password=True)


def _resolved_file(url: URL) -> URL:
    if not url.database or url.database == ":memory:":
        raise UserError(
            "--storage: a SQLite database in memory is gone with its process; "
            "name a file, such as sqlite:///search.db"
        )
    named = Path(url.database)
    path = named.resolve()
    folder = path.parent
    if not folder.is_dir():
        raise UserError(
            f"--storage {url}: there is no folder {named.parent}; make it, or name another"
        )
    if kind := network_kind(folder):
        # https://sqlite.org/wal.html: all processes that use a database must be on one machine.
        raise UserError(
            f"--storage {url}: {folder} is on a network disk ({kind}), where SQLite's "
            "log does not work; name a file on a disk of this machine, or a PostgreSQL database"
        )
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        if not path.exists():
            raise UserError(
                f"--storage {url}: {folder} is not writable; name a file in another folder"
            )
        shut = folder if os.access(path, os.W_OK) else path
        raise UserError(
            f"--storage {url}: {shut} is not writable, as SQLite's log needs it even to read; name "
            f"a file in another folder; to look at a finished study, a copy of {path.name} will do "
            f"(with {path.name}-wal, if that is there)"
        )
    if path.exists():
        if not path.is_file():
            raise UserError(f"--storage {url}: {path} is not a file")
        # https://sqlite.org/howtocorrupt.html: its log is found by the file's name.
        if is_mount_point(path):
            raise UserError(
                f"--storage {url}: {path} is a file that is mounted by itself, and SQLite's log "
                "beside it would not be; mount its folder"
            )
        if path.stat().st_nlink > 1:
            raise UserError(
                f"--storage {url}: {path} has {path.stat().st_nlink} names (hard links), which "
                "damages a SQLite database; copy it under a name of its own, and use the copy"
            )
    return url.set(drivername="sqlite", database=str(path))


def engine_options(url: URL) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's `create_engine` besides `url`."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS, "factory": _WalConnection}}
    return {
        "pool_pre_ping": True,
        "isolation_level": "READ COMMITTED",  # regardless of the server's default
        "connect_args": {
            "prepare_threshold": None,  # a pooler may run each transaction in another session
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,  # so that a lost connection releases its lock within a minute
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "application_name": "search",
            "client_encoding": "utf8",  # regardless of the database's encoding
        },
    }


class _WalConnection(sqlite3.Connection):
    """A SQLite connection with a write-ahead log, for concurrent readers and one writer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute(
            "PRAGMA synchronous = NORMAL"
        )  # consistent after a kill or a crash in WAL mode


def explained(url: URL, error: Exception) -> str:
    """Return in one line why the database at `url` cannot be used, without its password."""
    line = first_line(error) or type(error).__name__
    is_full = "disk is full" in line
    if "disk I/O error" in line and url.database:
        # SQLite reports this too when there is no room for the files beside the database.
        free = shutil.disk_usage(Path(url.database).resolve().parent).free
        if is_full := free < ROOM_BYTES:
            line += f": the disk has {free // 1024} KiB left"
    if is_full:
        line += "; free some space, or name a file on another disk"
    if url.password:
        line = re.sub(rf"(?<!\w){re.escape(str(url.password))}(?!\w)", "***", line)
    return f"--storage {url.render_as_string(hide_password=True)}: {line}"
