"""Empty databases for benchmarks: a SQLite file, or a real PostgreSQL server of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from tests.support.databases import postgresql_server


@contextmanager
def empty(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database of this kind, `sqlite` or `postgresql`."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'search.db'}"
        return
    with postgresql_server() as server:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield url.render_as_string(hide_password=False)
