"""Where SQLite and PostgreSQL differ: how their tables are found, where they are, their limits.

A PostgreSQL server, database or role may have settings that change what a statement does; those
that would end a search are overridden for each transaction, since a pooler may give each one to
another session.
"""

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Self

from sqlalchemy import URL, Connection, Engine, event, text

LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",  # of PostgreSQL 17 and newer
)
"""Settings of PostgreSQL that end what takes longer."""

_SQLITE_COLUMNS = text(
    "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c "
    "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite!_%' ESCAPE '!'"
)
_POSTGRESQL_COLUMNS = text(
    # Those that a name without a schema finds, which may be in another schema than new ones.
    "SELECT c.relname, a.attname FROM pg_class AS c "
    "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid) "
    "AND n.nspname NOT LIKE 'pg!_%' ESCAPE '!' AND n.nspname <> 'information_schema'"
)


def visible_tables(connection: Connection) -> Mapping[str, Set[str]]:
    """Return the tables that a statement finds by their names alone, with their columns."""
    is_sqlite = connection.dialect.name == "sqlite"
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(_SQLITE_COLUMNS if is_sqlite else _POSTGRESQL_COLUMNS):
        found.setdefault(table, set()).add(column)
    return found


def home_of(url: URL, connection: Connection) -> str:
    """Return where the database is, which a copy of it does not share.

    A SQLite file is known by its file system and inode, a PostgreSQL database by its server's and
    its own number. One that is moved to another disk, or restored, has another home too.
    """
    if connection.dialect.name == "sqlite":
        path = str(url.database)
        return f"{os.statvfs(path).f_fsid:x}/{os.stat(path).st_ino}"  # noqa: PTH116
    row = connection.execute(
        text(
            "SELECT system_identifier, d.oid FROM pg_control_system(), pg_database AS d "
            "WHERE d.datname = current_database()"
        )
    ).one()
    return f"{row[0]}/{row[1]}"


@dataclass(frozen=True)
class Settings:
    """The limits that a PostgreSQL server has set for this role and database."""

    limits: tuple[str, ...]

    @classmethod
    def of(cls, connection: Connection) -> Self:
        query = text("SELECT name FROM pg_settings WHERE name = ANY(:names) AND reset_val <> '0'")
        names = connection.scalars(query, {"names": list(LIMITS)})
        return cls(tuple(names))

    def override(self, engine: Engine) -> None:
        """Let every transaction of `engine` begin without these limits."""
        if not self.limits:  # as nearly everywhere: no statement more
            return
        lifted = text("SELECT " + ", ".join(f"set_config('{n}', '0', true)" for n in self.limits))

        def lift(connection: Connection) -> None:
            connection.execute(lifted)

        event.listen(engine, "begin", lift)
