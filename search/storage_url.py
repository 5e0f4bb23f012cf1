"""The URL of a database: what it may be, whether it can be used, and how it is opened.

Looks before anything is written; what is made in a database is for `search.storage`.
"""

import os
import re
import sqlite3
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import URL, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from search.errors import UserError
from search.file_system import network_kind

BUSY_SECONDS = 60
"""How long SQLite waits for another process's write."""
CONNECT_SECONDS = 10
_OPTUNAS: Mapping[str, Set[str]] = {
    name: set(table.columns.keys()) for name, table in BaseModel.metadata.tables.items()
} | {"alembic_version": {"version_num"}}
"""The columns of Optuna's tables."""


def check(url: str, *, must_exist: bool = False) -> URL:
    """Return `url` made whole, once the database it names has been seen; write nothing.

    A database is accepted if it is empty or holds Optuna's tables. A SQLite file need not exist
    unless it `must_exist`.

    Raises:
        UserError: the URL is malformed, or what it names cannot be reached or holds other tables.
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
        return _check_sqlite(parsed, must_exist)
    if backend not in ("postgresql", "postgres"):
        raise UserError(f"--storage: SQLite and PostgreSQL are known, not {backend!r}")
    parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        engine = sqlalchemy.create_engine(parsed, **engine_options(parsed), poolclass=NullPool)
        with engine.connect() as connection:
            inspector = inspect(connection)
            _check_tables(
                parsed,
                {
                    name: {column["name"] for column in inspector.get_columns(name)}
                    for name in inspector.get_table_names()
                },
            )
    except (ImportError, NoSuchModuleError) as error:
        raise UserError(
            "--storage: PostgreSQL needs psycopg 3: pip install 'psycopg[binary]>=3.3'"
        ) from error
    except (SQLAlchemyError, TypeError, ValueError) as error:  # the latter two: odd options
        raise UserError(explained(parsed, error)) from error
    return parsed


def _check_sqlite(url: URL, must_exist: bool) -> URL:
    if not url.database or url.database == ":memory:":
        raise UserError(
            "--storage: a SQLite database in memory is gone with its process; "
            "name a file, such as sqlite:///search.db"
        )
    path = Path(url.database)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"--storage {url}: there is no folder {folder}; make it, or name another")
    if must_exist and not path.exists():
        raise UserError(
            f"--storage {url}: there is no such file in {Path.cwd()}; name the database of a "
            "search, or make one with `python -m search.run`"
        )
    if kind := network_kind(folder):
        # https://sqlite.org/wal.html: all processes that use a database must be on one machine.
        raise UserError(
            f"--storage {url}: {folder.absolute()} is on a network disk ({kind}), where SQLite's "
            "log does not work; name a file on a disk of this machine, or a PostgreSQL database"
        )
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        shut = path if path.exists() else folder
        raise UserError(
            f"--storage {url}: {shut.absolute()} is not writable; name a file in another folder"
        )
    if path.exists():
        if not path.is_file():
            raise UserError(f"--storage {url}: {path} is not a file")
        try:
            name = f"{path.resolve().as_uri()}?mode=ro"
            connection = sqlite3.connect(name, uri=True, timeout=BUSY_SECONDS)
            try:
                rows = connection.execute(
                    "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c "
                    "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite!_%' ESCAPE '!'"
                )
                tables: dict[str, set[str]] = {}
                for table, column in rows:
                    tables.setdefault(table, set()).add(column)
                _check_tables(url, tables)
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise UserError(explained(url, error)) from error
    return url.set(drivername="sqlite")


def _check_tables(url: URL, tables: Mapping[str, Set[str]]) -> None:
    """Refuse tables, given with their columns, that are not those of an Optuna of some version."""
    first = ("studies", "version_info")  # a creation that was cut off has left only Optuna's
    whole = all(tables.get(name, set()) >= _OPTUNAS[name] for name in first)
    if not whole and any(_OPTUNAS.get(name) != columns for name, columns in tables.items()):
        raise UserError(
            f"--storage {url.render_as_string()}: this database holds other tables "
            f"({', '.join(sorted(tables)[:3])}, …); name an empty one"
        )


def engine_options(url: URL) -> dict[str, Any]:
    """Return what SQLAlchemy's `create_engine` is told besides `url`."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS, "factory": _WalConnection}}
    return {
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,  # so that a cut connection gives its lock back in a minute
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "application_name": "search",
        },
    }


class _WalConnection(sqlite3.Connection):
    """A SQLite connection that readers and one writer can share a file with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")  # whole after a kill or a crash, as WAL is


def explained(url: URL, error: Exception) -> str:
    """Return one line on why the database at `url` cannot be used, without its password."""
    cause = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    line = " ".join(cause.split())
    if "disk is full" in line:
        line += "; free some space, or name a file on another disk"
    if url.password:
        line = re.sub(rf"(?<!\w){re.escape(str(url.password))}(?!\w)", "***", line)
    return f"--storage {url.render_as_string(hide_password=True)}: {line}"
