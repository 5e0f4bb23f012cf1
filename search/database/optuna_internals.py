"""Everything that this service uses of Optuna without a promise of Optuna's.

Optuna's tables, the formats of its attributes, ids, caches, and methods whose names begin with an
underscore. No other file touches them (ruff's `SLF` and `TID251` see to that), and
`tests/database/test_optuna_internals.py` has one test for each assumption, so that a release of
Optuna that breaks one is named by one failing test.
"""

import json
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Set
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import optuna
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna import Study, Trial
from optuna.artifacts import ArtifactMeta
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX, DEFAULT_MIME_TYPE
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, delete, insert, literal, select, update

from search.errors import UserError
from search.study.trial_attributes import REASON, REOPENED

studies = models.StudyModel.__table__
study_directions = models.StudyDirectionModel.__table__
study_user_attributes = models.StudyUserAttributeModel.__table__
study_system_attributes = models.StudySystemAttributeModel.__table__
trials = models.TrialModel.__table__
trial_params = models.TrialParamModel.__table__
trial_values = models.TrialValueModel.__table__
trial_user_attributes = models.TrialUserAttributeModel.__table__
trial_system_attributes = models.TrialSystemAttributeModel.__table__
intermediate_values = models.TrialIntermediateValueModel.__table__

COLUMNS: Mapping[str, Set[str]] = {
    name: set(table.columns.keys()) for name, table in models.BaseModel.metadata.tables.items()
} | {"alembic_version": {"version_num"}}
"""Column names of each of Optuna's tables."""

FIXED_PARAMS = "fixed_params"
"""System attribute of an enqueued trial: the values that it was enqueued with."""
ARTIFACT = ARTIFACTS_ATTR_PREFIX
"""Prefix of the system attributes that list a trial's or study's artifacts, one for each."""


def prepare_tables(connection: Connection, storage: str) -> None:
    """Create Optuna's tables if there are none, or only a part of them, in one transaction.

    Optuna itself creates them in several transactions on two connections, which fails when two
    processes do so at once.

    Raises:
        UserError: the database, called `storage`, has the tables of another Optuna version.
    """
    script = _migrations()
    context = MigrationContext.configure(connection)
    there, needed = context.get_current_revision(), script.get_current_head()
    if there is None:
        models.BaseModel.metadata.create_all(connection)
        version = models.VersionInfoModel
        if connection.scalar(select(version.schema_version)) is None:
            versions = {
                "schema_version": models.SCHEMA_VERSION,
                "library_version": optuna.__version__,
            }
            connection.execute(insert(version).values(versions))
        context.stamp(script, "head")
    elif there != needed:
        raise UserError(
            f"--storage {storage}: its tables are of schema {there}, and this Optuna needs "
            f"{needed}; `optuna storage upgrade` upgrades older ones, or name another database"
        )


def _migrations() -> ScriptDirectory:
    package = find_spec("optuna.storages._rdb")
    assert package is not None, "the project requires Optuna"
    assert package.origin is not None, "it is a package of files"
    config = Config()
    config.set_main_option("script_location", str(Path(package.origin).parent / "alembic"))
    return ScriptDirectory.from_config(config)


def study_id(study: Study) -> int:
    return study._study_id


def trial_id(trial: FrozenTrial | Trial) -> int:
    return trial._trial_id


def open_trial(study: Study, trial_id: int) -> Trial:
    """Return a trial that was claimed, to suggest its choices and report its metrics.

    All trials are read anew: a `Study` keeps the list of trials for as long as it runs one, and
    does not know when that is; and Optuna's cache writes to no trial that it has not read, while
    another process may have enqueued this one.
    """
    study._thread_local.cached_all_trials = None
    study._get_trials(deepcopy=False, use_cache=True)
    return Trial(study, trial_id)


def reported(trial: Trial) -> FrozenTrial:
    """Return the trial with all that was reported of it, as `should_prune` hands it to a pruner."""
    return trial._get_latest_trial()


def end_trial(
    connection: Connection,
    trial_id: int,
    state: TrialState,
    value: float | None,
    attributes: Mapping[str, object],
) -> bool:
    """End a running trial as `Study.tell` does, with user attributes, in the caller's transaction.

    Return False, and write nothing, if the trial is not running.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    running = trials.c.trial_id == trial_id, trials.c.state == TrialState.RUNNING
    ended = update(trials).where(*running).values(state=state, datetime_complete=now)
    if not connection.execute(ended).rowcount:
        return False
    if value is not None:
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        connection.execute(
            insert(trial_values).values(
                trial_id=trial_id, objective=0, value=stored, value_type=kind
            )
        )
    set_user_attributes(connection, trial_id, attributes)
    return True


def reopen_trial(
    connection: Connection,
    trial_id: int,
    attributes: Mapping[str, object],
    dropped: Collection[str],
) -> bool:
    """Let a pruned trial run again, in the caller's transaction: its parameters and intermediate
    values stay, its value goes, and so do the user attributes `dropped`.

    Optuna's caches in other processes know nothing of it; see `RereadableStorage`. Return False,
    and write nothing, if the trial is not pruned.
    """
    pruned = trials.c.trial_id == trial_id, trials.c.state == TrialState.PRUNED
    again = update(trials).where(*pruned).values(state=TrialState.RUNNING, datetime_complete=None)
    if not connection.execute(again).rowcount:
        return False
    connection.execute(delete(trial_values).where(trial_values.c.trial_id == trial_id))
    table = trial_user_attributes
    connection.execute(delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(dropped)))
    set_user_attributes(connection, trial_id, attributes)
    return True


def begin_trial(connection: Connection, trial_id: int) -> None:
    """Let a waiting trial run, in the caller's transaction, as its first `ask` does."""
    now = datetime.now(UTC).replace(tzinfo=None)
    waiting = trials.c.trial_id == trial_id, trials.c.state == TrialState.WAITING
    connection.execute(
        update(trials).where(*waiting).values(state=TrialState.RUNNING, datetime_start=now)
    )


def delete_study(connection: Connection, study_id: int) -> None:
    """Delete a study and its trials, in the caller's transaction."""
    own = select(trials.c.trial_id).where(trials.c.study_id == study_id)
    for table in reversed(models.BaseModel.metadata.sorted_tables):
        if "study_id" in table.c:
            connection.execute(delete(table).where(table.c.study_id == study_id))
        elif "trial_id" in table.c:
            connection.execute(delete(table).where(table.c.trial_id.in_(own)))


def copy_study(connection: Connection, study_id: int, name: str) -> int:
    """Copy a study and its trials under another name, in the caller's transaction; return the id of
    the copy. Its trials have the numbers of the original's."""
    copied = insert(studies).values(study_name=name).returning(studies.c.study_id)
    copy_id = connection.execute(copied).scalar_one()
    before, after = trials.alias(), trials.alias()
    for table in models.BaseModel.metadata.sorted_tables:
        columns = [column for column in table.c if not column.primary_key]
        names = [column.name for column in columns]
        if "study_id" in names:
            mine = [literal(copy_id) if c.name == "study_id" else c for c in columns]
            query = select(*mine).where(table.c.study_id == study_id)
        elif "trial_id" in names:
            mine = [after.c.trial_id if c.name == "trial_id" else c for c in columns]
            query = (
                select(*mine)
                .join_from(table, before, before.c.trial_id == table.c.trial_id)
                .join(after, after.c.number == before.c.number)
                .where(before.c.study_id == study_id, after.c.study_id == copy_id)
            )
        else:
            continue  # the tables of studies and of versions
        own = next(iter(table.primary_key))
        connection.execute(insert(table).from_select(names, query.order_by(own)))
    return int(copy_id)


def set_user_attributes(
    connection: Connection, trial_id: int, attributes: Mapping[str, object]
) -> None:
    """Set user attributes of an unfinished trial in the caller's transaction; None removes one."""
    _set_attributes(connection, trial_user_attributes, trial_id, attributes)


def set_system_attribute(connection: Connection, trial_id: int, name: str, value: object) -> None:
    """Set a system attribute of an unfinished trial in the caller's transaction."""
    _set_attributes(connection, trial_system_attributes, trial_id, {name: value})


def _set_attributes(
    connection: Connection, table: Table, trial_id: int, attributes: Mapping[str, object]
) -> None:
    connection.execute(
        delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(attributes))
    )
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
        if value is not None
    ]
    if rows:
        connection.execute(insert(table), rows)


def set_study_user_attribute(
    connection: Connection, study_id: int, name: str, value: object
) -> None:
    """Replace a user attribute of a study in the caller's transaction."""
    table = study_user_attributes
    mine = table.c.study_id == study_id, table.c.key == name
    connection.execute(update(table).where(*mine).values(value_json=json.dumps(value)))


def set_study_system_attribute(
    connection: Connection, study_id: int, name: str, value: object
) -> None:
    """Set a system attribute of a study in the caller's transaction."""
    table = study_system_attributes
    connection.execute(delete(table).where(table.c.study_id == study_id, table.c.key == name))
    values = {"study_id": study_id, "key": name, "value_json": json.dumps(value)}
    connection.execute(insert(table).values(values))


def draw_again(connection: Connection, trial_id: int) -> None:
    """Forget the parameters that were drawn for an unfinished trial, in the caller's
    transaction."""
    connection.execute(delete(trial_params).where(trial_params.c.trial_id == trial_id))


def drop_study_user_attribute(connection: Connection, study_id: int, name: str) -> None:
    """Remove a user attribute of a study in the caller's transaction, if it is there."""
    table = study_user_attributes
    mine = table.c.study_id == study_id, table.c.key == name
    connection.execute(delete(table).where(*mine))


def artifact_meta(artifact_id: str, filename: str, mimetype: str = DEFAULT_MIME_TYPE) -> str:
    """Return the value of the system attribute that lists an artifact."""
    meta = ArtifactMeta(
        artifact_id=artifact_id, filename=filename, mimetype=mimetype, encoding=None
    )
    return json.dumps(asdict(meta))


class RereadableStorage(_CachedStorage):
    """Optuna's cache of finished trials, of which some can be read from the database again.

    Those that `reopen_trial` has reopened since they were read, in any process, always are.
    """

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        self._forget_reopened(study_id)
        found = super().get_all_trials(study_id, deepcopy, states)
        if any(map(_is_torn, found)):
            self._forget_reopened(study_id)
            found = super().get_all_trials(study_id, deepcopy, states)
        return found

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """As Optuna's, but a study can be redefined: other trials may have other distributions."""
        self._backend._set_trial_param(
            trial_id, param_name, param_value_internal, distribution, distribution
        )

    def _get_cached_trial(self, trial_id: int) -> FrozenTrial | None:
        found = super()._get_cached_trial(trial_id)
        return None if found is None or found.state == TrialState.PRUNED else found

    def _forget_reopened(self, study_id: int) -> None:
        # Optuna reads a trial in several statements, its row first: what it then reads of one that
        # is reopened meanwhile can be newer than the row, but not the moment at which it ended.
        table = trial_user_attributes
        query = (
            select(trials.c["trial_id", "number", "datetime_complete"])
            .join(table, table.c.trial_id == trials.c.trial_id)
            .where(trials.c.study_id == study_id, table.c.key == REOPENED)
        )
        with self._backend.engine.connect() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return
        with self._lock:
            known = self._studies[study_id].trials if study_id in self._studies else {}
            stale = {
                trial_id
                for trial_id, number, ended in rows
                if number in known and known[number].datetime_complete != ended
            }
        self.forget_trials(study_id, stale)

    def forget_study(self, study_id: int) -> None:
        """Read all trials of the study again, the next time that they are asked for."""
        with self._lock:
            self._studies[study_id] = _StudyInfo()

    def forget_trials(self, study_id: int, trial_ids: Set[int]) -> None:
        """Read these trials of the study again, as if they had not finished."""
        with self._lock:
            if study_id in self._studies:
                self._studies[study_id].unfinished_trial_ids |= trial_ids


def _is_torn(trial: FrozenTrial) -> bool:
    """Return whether the trial can have been reopened while it was read: it then has the state of
    before and the attributes of after."""
    attributes = trial.user_attrs
    return trial.state == TrialState.PRUNED and REOPENED in attributes and REASON not in attributes


class StudyView(Study):
    """A study with only those of its trials that `select` returns, as a sampler is to see it."""

    def __init__(
        self, study: Study, select: Callable[[list[FrozenTrial]], Iterable[FrozenTrial]]
    ) -> None:
        self.__dict__.update(vars(study))
        self._study = study
        self._select = select

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = self._select(self._study._get_trials(deepcopy, use_cache=use_cache))
        return [trial for trial in trials if states is None or trial.state in states]


def pin_sequence(sampler: QMCSampler, *, seed: int, place: int) -> None:
    """Let a quasi-random sampler return the point at `place` of the sequence of `seed`.

    Optuna counts the points in the database; a trial that is sampled again would get the next one.
    """
    sampler._seed = seed
    sampler._find_sample_id = lambda study, search_space: place  # type: ignore[method-assign]
