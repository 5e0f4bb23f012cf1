"""Optuna's dashboard as a WSGI application over one database and one store of artifacts.

Its language-model features, and markup in notes that could run code, are disabled. A missing object
and a database or store that does not answer are reported in one line. Each trial's learning curves
are among its artifacts, and are drawn on request.
"""

import io
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, BinaryIO
from wsgiref.types import WSGIApplication

import optuna_dashboard
from bottle import HTTPError, request
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, Row, event, func, select
from sqlalchemy.engine import ExceptionContext

from search.artifacts.store import ArtifactStore
from search.database import artifact_lists
from search.database.budgets import BUDGET, parsed
from search.database.database import Database
from search.database.dialects import visible_tables
from search.database.identity import DEFINITION
from search.database.optuna_internals import (
    ARTIFACT,
    RereadableStorage,
    artifact_meta,
)
from search.database.optuna_internals import studies as optuna_studies
from search.database.optuna_internals import trials as optuna_trials
from search.database.outage import first_line, is_outage
from search.database.queries import StudyRef
from search.database.studies import published_for
from search.database.tables import epochs, studies, weights
from search.reporting.curves import curves_id, svg
from search.study.definition import settings
from search.study.space import params_text
from search.study.trial_attributes import label, origin_name
from search.web import study_list
from search.web.pages import add_to_pages

IDS = 2**31
"""Above all ids: PostgreSQL refuses such numbers, and SQLite's driver those of over 64 bits."""

CURVES = re.compile(r"(?P<files>[0-9a-f]{16})-(?P<number>\d+)-c")
"""Matches artifact ids made by `curves_id`."""


def dashboard_app(
    database: Database, store: ArtifactStore, *, edits: bool = False
) -> WSGIApplication:
    """Return the dashboard without access control; the store may be empty.

    With `edits`, its pages have buttons.
    """
    event.listen(database.engine, "handle_error", _answer_503)
    app = optuna_dashboard.wsgi(RefreshingStorage(database), _GuardedStore(store, database))
    # The routes of its static files require the header Accept-Encoding.
    app.add_hook("before_request", lambda: request.environ.setdefault("HTTP_ACCEPT_ENCODING", ""))
    app.install(_or_404)
    study_list.add_page(app, database, edits=edits)
    add_to_pages(app, edits=edits)
    served: WSGIApplication = app
    return served


def _answer_503(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    if error is not None and is_outage(error) and not context.is_pre_ping:
        raise HTTPError(503, f"the database does not answer: {first_line(error)}")


def _or_404(route: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the route so that a missing study or trial is answered with status 404."""

    def answer(**asked: Any) -> Any:
        if any(isinstance(value, int) and abs(value) >= IDS for value in asked.values()):
            raise HTTPError(404, "the number is too large for a study or trial")
        try:
            return route(**asked)
        except KeyError as error:
            raise HTTPError(404, "there is no such study or trial") from error

    return answer


@dataclass(frozen=True, kw_only=True)
class _Drawable:
    """A study of this service and its trials with at least one epoch."""

    name: str
    files: str
    """See `search.database.tables.studies`."""
    numbers: Set[int]

    def offer(self, trial: FrozenTrial) -> None:
        """Add the trial's learning curves to its artifacts."""
        if trial.number in self.numbers:
            artifact_id = curves_id(self.files, trial.number)
            filename = f"{self.name}-{trial.number}-curves.svg"
            meta = artifact_meta(artifact_id, filename, "image/svg+xml")
            trial.system_attrs[ARTIFACT + artifact_id] = meta


class RefreshingStorage(RereadableStorage):
    """Optuna's cache of finished trials, kept up to date, with learning curves as artifacts.

    Finished trials can still lose their weights, and SQLite reuses the ids of deleted trials and
    studies.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.uncached)
        self._uncached = database.uncached
        self._engine = database.engine
        self._kept: dict[int, set[int]] = {}
        """By study id, the ids of the trials with kept weights at the last read."""
        self._drawable: dict[int, _Drawable | None] = {}
        self._identities: dict[int, tuple[object, object]] = {}
        """By study id, the name and the earliest start of a trial at the last read."""

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        self._forget_what_changed(study_id)
        trials = super().get_all_trials(study_id, deepcopy, states)
        if drawable := self._drawable.get(study_id):
            for trial in trials:
                drawable.offer(trial)
        return trials

    def get_all_studies(self) -> list[Any]:
        """As Optuna's, with the settings of a study's definition and budget one by one.

        The page shows a nested attribute as JSON. A study that is renamed is read by other methods.
        """
        found = super().get_all_studies()
        for study in found:
            study.user_attrs = _told(study.user_attrs)
        return found

    def _forget_what_changed(self, study_id: int) -> None:
        of_study = optuna_trials.c.study_id == study_id
        name = select(optuna_studies.c.study_name).where(optuna_studies.c.study_id == study_id)
        start = select(func.min(optuna_trials.c.datetime_start)).where(of_study)
        with self._engine.connect() as connection:
            made = _made_here(connection, studies.c.study_id == study_id)
            kept = set(_kept(connection, made))
            identity = connection.scalar(name), connection.scalar(start)
            self._drawable[study_id] = _drawable(connection, made)
        if self._identities.get(study_id) != identity:
            self.forget_study(study_id)
            self._identities[study_id] = identity
        else:
            self.forget_trials(study_id, self._kept.get(study_id, set()) - kept)
        self._kept[study_id] = kept

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Read the trial from the database; called when one of its files is requested."""
        trial = self._uncached.get_trial(trial_id)
        study_id = select(optuna_trials.c.study_id).where(optuna_trials.c.trial_id == trial_id)
        with self._engine.connect() as connection:
            made = _made_here(connection, studies.c.study_id == study_id.scalar_subquery())
            drawable = _drawable(connection, made, trial.number)
        if drawable:
            drawable.offer(trial)
        return trial

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna's: a study that is renamed copies its trials, and the curves are not theirs."""
        if template_trial is not None:
            template_trial = copy(template_trial)
            template_trial.system_attrs = {
                key: value
                for key, value in template_trial.system_attrs.items()
                if not CURVES.fullmatch(key.removeprefix(ARTIFACT))
            }
        return super().create_new_trial(study_id, template_trial)


def _told(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's user attributes without nested ones."""
    flat: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == DEFINITION and isinstance(value, dict):
            with suppress(ValueError, KeyError, TypeError):  # somebody has changed a range
                flat |= settings(value)
                continue
        if name == BUDGET and (budget := parsed(value)) is not None:
            value = params_text({k: v for k, v in budget.settings.items() if v is not None})
        flat[name] = value
    return flat


def _drawable(
    connection: Connection, made: Row[Any] | None, number: int | None = None
) -> _Drawable | None:
    """Return a study's trials with curves, or only trial `number`; `made` is from `_made_here`."""
    if made is None:
        return None
    first = (epochs.c.study_key == made.study_key) & (epochs.c.number == 1)
    query = select(epochs.c.trial).where(first)
    if number is not None:
        query = query.where(epochs.c.trial == number)
    return _Drawable(name=made.name, files=made.files, numbers=frozenset(connection.scalars(query)))


def _kept(connection: Connection, made: Row[Any] | None) -> Iterable[int]:
    """Return the ids of the study's trials whose weights are kept; `made` is from `_made_here`."""
    if made is None:
        return ()
    query = (
        select(optuna_trials.c.trial_id)
        .join(weights, weights.c.trial == optuna_trials.c.number)
        .where(optuna_trials.c.study_id == made.study_id, weights.c.study_key == made.study_key)
    )
    return connection.scalars(query).all()


def _made_here(connection: Connection, where: ColumnElement[bool]) -> Row[Any] | None:
    """Return the row of a study in this service's tables; None if it, or a table, is missing."""
    needed = {table.name for table in (studies, epochs, weights)}
    if not needed <= visible_tables(connection).keys():
        return None
    return connection.execute(select(studies).where(where)).one_or_none()


class _GuardedStore:
    """The store's files; a missing or unreadable file is answered with an HTTP status.

    A file is removed only if it belongs to this database: a copied study lists the files of its
    original. Learning curves are not files.
    """

    def __init__(self, store: ArtifactStore, database: Database) -> None:
        self._store = store
        self._database = database

    def open_reader(self, artifact_id: str) -> BinaryIO:
        if curves := CURVES.fullmatch(artifact_id):
            return io.BytesIO(_drawn(self._database, curves["files"], int(curves["number"])))
        with _answering():
            return self._store.open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        with _answering():
            self._store.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        if CURVES.fullmatch(artifact_id) or not self._is_ours(artifact_id):
            return
        with _answering(), suppress(ArtifactNotFound):  # lets a study without its files be deleted
            self._store.remove(artifact_id)

    def _is_ours(self, artifact_id: str) -> bool:
        with self._database.engine.connect() as connection:
            if artifact_lists.n_listing(connection, artifact_id) > 1:
                return False
            files = re.fullmatch(r"([0-9a-f]{16})-\d+-.*", artifact_id)
            if files is None:  # a user's own upload
                return True
            return _made_here(connection, studies.c.files == files[1]) is not None


def _drawn(database: Database, files: str, number: int) -> bytes:
    """Return the learning curves of trial `number` as SVG."""
    with database.engine.connect() as connection:
        study = _made_here(connection, studies.c.files == files)
    recorded = [] if study is None else database.epochs(study.study_key, number)
    if study is None or not recorded:
        raise HTTPError(404, "this trial has no epoch to draw")
    ref = StudyRef(study_id=study.study_id, key=study.study_key)
    storage = database.uncached
    trial = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(ref.study_id, number))
    published = published_for(database, ref, origin_name(trial.user_attrs))
    name = storage.get_study_name_from_id(ref.study_id)
    metric = storage.get_study_user_attrs(ref.study_id)[DEFINITION]["metric"]
    return svg(f"{name}, trial {label(trial)}", recorded, published, metric)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except ArtifactNotFound as error:
        raise HTTPError(404, "the file of this artifact is not in --artifacts") from error
    except OSError as error:
        raise HTTPError(503, f"--artifacts: {error.strerror or error}") from error
