"""Differences between SQLite and PostgreSQL: finding tables, locating the database, time limits.

Settings of a PostgreSQL server, database or role that would end a search are overridden in each
transaction, since a pooler may run each one in another session.
"""

import os
from collections.abc import Mapping, Set

from sqlalchemy import URL, Connection, Engine, TextClause, event, text

LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",  # of PostgreSQL 17 and newer
)
"""PostgreSQL settings that abort slow statements or transactions."""

_SQLITE_COLUMNS = text(
    "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c "
    "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite!_%' ESCAPE '!'"
)
_POSTGRESQL_COLUMNS = text(
    # Tables that an unqualified name finds; they may be in another schema than new tables.
    "SELECT c.relname, a.attname FROM pg_class AS c "
    "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid) "
    "AND n.nspname NOT LIKE 'pg!_%' ESCAPE '!' AND n.nspname <> 'information_schema'"
)


Tables = Mapping[str, Set[str]]
"""Column names by table name."""


def visible_tables(connection: Connection) -> Tables:
    """Return the tables that unqualified names find."""
    return _tables(connection, _is_sqlite(connection), _POSTGRESQL_COLUMNS)


def tables_beside_new_ones(connection: Connection) -> Tables:
    """Return the tables of the schema in which new tables are created."""
    in_schema = text(f"{_POSTGRESQL_COLUMNS.text} AND n.nspname = current_schema()")
    return _tables(connection, _is_sqlite(connection), in_schema)


def _tables(connection: Connection, is_sqlite: bool, of_postgresql: TextClause) -> Tables:
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(_SQLITE_COLUMNS if is_sqlite else of_postgresql):
        found.setdefault(table, set()).add(column)
    return found


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def home_of(url: URL, connection: Connection) -> str:
    """Return an identifier of the database's location, which a copy does not share.

    For SQLite the file system and inode, for PostgreSQL the ids of server and database. A database
    that is moved to another disk, or restored, gets another location.
    """
    if _is_sqlite(connection):
        path = str(url.database)
        return f"{os.statvfs(path).f_fsid:x}/{os.stat(path).st_ino}"  # noqa: PTH116
    row = connection.execute(
        text(
            "SELECT system_identifier, d.oid FROM pg_control_system(), pg_database AS d "
            "WHERE d.datname = current_database()"
        )
    ).one()
    return f"{row[0]}/{row[1]}"


def lift_limits(connection: Connection) -> None:
    """Disable `LIMITS` for this transaction of a PostgreSQL database."""
    lifted = text("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY(:names)")
    connection.execute(lifted, {"names": list(LIMITS)})


def without_limits(connection: Connection, engine: Engine) -> None:
    """Disable `LIMITS` for all transactions of `engine`, if the server sets any for this role."""
    query = text("SELECT name FROM pg_settings WHERE name = ANY(:names) AND reset_val <> '0'")
    names = connection.scalars(query, {"names": list(LIMITS)}).all()
    if not names:  # the usual case: no extra statement
        return
    lifted = text("SELECT " + ", ".join(f"set_config('{name}', '0', true)" for name in names))
    event.listen(engine, "begin", lambda begun: begun.execute(lifted))
