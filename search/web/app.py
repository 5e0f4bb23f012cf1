"""Optuna's dashboard as a WSGI application over one database and one store of artifacts.

Its language-model features and the markup in notes that could run code are off. A database or a
store that does not answer, and what is not there, are told in one line.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any, BinaryIO
from wsgiref.types import WSGIApplication

import optuna_dashboard
from bottle import HTTPError, HTTPResponse, Route, request
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb.models import StudyModel, TrialModel
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, event, func, select
from sqlalchemy.engine import ExceptionContext

from search.database import artifact_lists
from search.database.database import Database
from search.database.dialects import visible_tables
from search.database.outage import first_line, is_outage
from search.database.tables import studies, weights

IDS = 2**31
"""No id is so large: PostgreSQL refuses one, and SQLite's driver one of more than 64 bits."""

POLICY = "Content-Security-Policy"
STYLE = """<style>
#dashboard main { min-width: 0; overflow-wrap: anywhere; }
#dashboard main th, #dashboard main td { overflow-wrap: normal; }
#dashboard main .MuiCard-root .MuiTable-root { min-width: 0; }
#dashboard main .MuiCard-root .MuiTableCell-body + td { overflow-wrap: anywhere; }
#dashboard main p.MuiTypography-body1 { white-space: pre-wrap; }
</style>
"""
"""Breaks long texts such as a trial's attributes, which would make a page wider than the window."""


def dashboard_app(database: Database, store: ArtifactStore) -> WSGIApplication:
    """Return the dashboard, with no rules about who may do what; the store may be empty."""
    event.listen(database.engine, "handle_error", _answer_503)
    app = optuna_dashboard.wsgi(Attentive(database), _Forgiving(store, database))
    # The routes of its files take it for granted that a client names what it can unpack.
    app.add_hook("before_request", lambda: request.environ.setdefault("HTTP_ACCEPT_ENCODING", ""))
    app.install(_or_404)
    app.install(_Styled())
    served: WSGIApplication = app
    return served


def _answer_503(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    if error is not None and is_outage(error) and not context.is_pre_ping:
        raise HTTPError(503, f"the database does not answer: {first_line(error)}")


def _or_404(route: Callable[..., Any]) -> Callable[..., Any]:
    """Return the route, for which a study or a trial that is not there is no failure."""

    def answer(**asked: Any) -> Any:
        if any(isinstance(value, int) and abs(value) >= IDS for value in asked.values()):
            raise HTTPError(404, "no study and no trial has so large a number")
        try:
            return route(**asked)
        except KeyError as error:
            raise HTTPError(404, "there is no such study or trial") from error

    return answer


class _Styled:
    """Adds `STYLE` to the one HTML page; its security policy stays."""

    api = 2
    name = "styled"

    def apply(self, route: Callable[..., Any], context: Route) -> Callable[..., Any]:
        if not context.rule.startswith("/dashboard"):
            return route
        index = files(optuna_dashboard).joinpath("index.html").read_text(encoding="utf-8")
        styled = index.replace("</head>", f"{STYLE}</head>", 1)

        def answer(**asked: Any) -> HTTPResponse:
            page = route(**asked)
            page.close()
            headers = {name: page.headers[name] for name in ("Content-Type", POLICY)}
            return HTTPResponse(styled, headers=headers)

        return answer


class Attentive(_CachedStorage):
    """Optuna's cache of ended trials, which may lose their weights all the same, and whose ids and
    study's id SQLite gives out again when others have deleted them."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.uncached)
        self._engine = database.engine
        self._kept: dict[int, set[int]] = {}
        """Ids of the trials with kept weights when a study was last read, by its id."""
        self._identities: dict[int, tuple[object, object]] = {}
        """Name and first start of a trial when a study was last read, by its id."""

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        name = select(StudyModel.study_name).where(StudyModel.study_id == study_id)
        trials = TrialModel.__table__.c
        start = select(func.min(trials.datetime_start)).where(trials.study_id == study_id)
        with self._engine.connect() as connection:
            kept = set(_kept(connection, study_id))
            identity = connection.scalar(name), connection.scalar(start)
        with self._lock:
            if self._identities.get(study_id) != identity:
                self._studies[study_id] = _StudyInfo()
                self._identities[study_id] = identity
            elif study_id in self._studies:
                # As if they had not ended: read again.
                dropped = self._kept.get(study_id, set()) - kept
                self._studies[study_id].unfinished_trial_ids |= dropped
            self._kept[study_id] = kept
        super()._read_trials_from_remote_storage(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._backend.get_trial(trial_id)  # asked when one of its files is


def _kept(connection: Connection, study_id: int) -> Iterable[int]:
    """Return the ids of the study's trials whose weights are kept."""
    if not {table.name for table in (studies, weights)} <= visible_tables(connection).keys():
        return ()
    trials = TrialModel.__table__
    query = (
        select(trials.c.trial_id)
        .join(weights, weights.c.trial == trials.c.number)
        .join(studies, studies.c.study_key == weights.c.study_key)
        .where(trials.c.study_id == study_id, studies.c.study_id == study_id)
    )
    return connection.scalars(query).all()


class _Forgiving:
    """The store's files; one that is gone, or cannot be read, is no failure of the dashboard.

    A file is removed only if it is known to be of this database: a study that was copied lists the
    files of its original.
    """

    def __init__(self, store: ArtifactStore, database: Database) -> None:
        self._store = store
        self._engine = database.engine

    def open_reader(self, artifact_id: str) -> BinaryIO:
        with _answering():
            return self._store.open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        with _answering():
            self._store.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        if not self._is_ours(artifact_id):
            return
        with _answering(), suppress(ArtifactNotFound):  # so that a study without its files can go
            self._store.remove(artifact_id)

    def _is_ours(self, artifact_id: str) -> bool:
        with self._engine.connect() as connection:
            if artifact_lists.n_listing(connection, artifact_id) > 1:
                return False
            files = re.fullmatch(r"([0-9a-f]{16})-\d+-.*", artifact_id)
            if files is None:  # a user's own upload
                return True
            known = visible_tables(connection)
            query = select(studies.c.files).where(studies.c.files == files[1])
            return studies.name in known and connection.scalar(query) is not None


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except ArtifactNotFound as error:
        raise HTTPError(404, "the file of this artifact is not in --artifacts") from error
    except OSError as error:
        raise HTTPError(503, f"--artifacts: {error.strerror or error}") from error
