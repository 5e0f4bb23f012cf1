"""Optuna's dashboard as a WSGI application over one database and one store of artifacts.

Its language-model features and the markup in notes that could run code are off. A database that
does not answer, and an artifact whose file is gone, are told in one line.
"""

from contextlib import suppress
from typing import BinaryIO
from wsgiref.types import WSGIApplication

import optuna_dashboard
from bottle import HTTPError
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial
from sqlalchemy import event, select
from sqlalchemy.engine import ExceptionContext

from search.outage import first_line, is_outage
from search.storage import Database
from search.tables import weights


def dashboard_app(database: Database, store: ArtifactStore) -> WSGIApplication:
    """Return the dashboard, with no rules about who may do what; the store may be empty."""
    event.listen(database.engine, "handle_error", _answer_503)
    app: WSGIApplication = optuna_dashboard.wsgi(Attentive(database), _Forgiving(store))
    return app


def _answer_503(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    if error is not None and is_outage(error) and not context.is_pre_ping:
        raise HTTPError(503, f"the database does not answer: {first_line(error)}")


class Attentive(_CachedStorage):
    """Optuna's cache of ended trials, which may lose their weights all the same."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.uncached)
        self._engine = database.engine
        self._kept: dict[int, set[int]] = {}
        """Ids of the trials with kept weights when a study was last read, by its id."""

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        query = select(weights.c.trial_id).where(weights.c.study_id == study_id)
        with self._engine.connect() as connection:
            kept = set(connection.scalars(query))
        with self._lock:
            if study_id in self._studies:
                # As if they had not ended: read again.
                dropped = self._kept.get(study_id, set()) - kept
                self._studies[study_id].unfinished_trial_ids |= dropped
            self._kept[study_id] = kept
        super()._read_trials_from_remote_storage(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._backend.get_trial(trial_id)  # asked when one of its files is


class _Forgiving:
    """The store's files; one that is gone is no failure of the dashboard."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return self._store.open_reader(artifact_id)
        except (ArtifactNotFound, OSError) as error:
            raise HTTPError(404, "the file of this artifact is not in --artifacts") from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        with suppress(ArtifactNotFound):  # so that a study can be deleted without its files
            self._store.remove(artifact_id)
