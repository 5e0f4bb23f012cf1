"""Requests to the dashboard without a socket."""

import io
import json
import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

from search.artifacts.store import open_artifacts
from search.database.database import Database
from search.web.app import dashboard_app


def get(app: Any, path: str) -> bytes:
    answers: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    chunks = app(environ, lambda status, headers, *rest: answers.append(status))
    content = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    assert answers == ["200 OK"], content[:200]
    return content


def renamed(database: Database, before: str, after: str) -> None:
    """Rename a study as the dashboard does when somebody types another name."""
    study_id = database.optuna.get_study_id_from_name(before)
    app = dashboard_app(database, open_artifacts("artifacts").store)
    body = json.dumps({"study_name": after}).encode()
    environ = {
        "PATH_INFO": f"/api/studies/{study_id}/rename",
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json",
        "wsgi.input": io.BytesIO(body),
    }
    setup_testing_defaults(environ)
    statuses: list[str] = []
    list(app(environ, lambda status, headers, error=None: statuses.append(status)))  # type: ignore[arg-type]
    assert statuses == ["201 Created"]
