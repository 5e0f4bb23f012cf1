"""Creates studies in the database, and lets processes join them.

The first process creates the study and stores its definition; every other process must have the
same definition. Each process that joins enqueues missing fixed trials, under the study's lock.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, delete, insert, literal, select, update

from search.database import artifact_lists, leases, optuna_internals, redefinition, tables
from search.database.database import Database, new_key
from search.database.identity import DEFINITION, KEY, Identified, NotOurs, identify, study_ref
from search.database.optuna_internals import FIXED_PARAMS
from search.database.queries import StudyRef
from search.errors import UserError
from search.study.definition import Definition, changed, differences, is_redefinable
from search.study.space import Space, Value, written
from search.study.study import Study
from search.study.trial_attributes import (
    CANCELED,
    ENQUEUED,
    VARIANT,
    Fixed,
    fixed_name,
    readable,
)

ORIGIN_KEY = "origin"
"""User attribute of a study of re-runs: the key of the study whose trials they are."""

PUBLISHED = "search:published"
"""System attribute of a study: published figures to compare its metrics with."""

_rows = tables.studies


def join(
    database: Database,
    study: Study,
    *,
    data_digest: str | None,
    precision: str | None = None,
    given: Sequence[Mapping[str, Value]] = (),
    retry: bool = True,
    redefine: bool = False,
) -> optuna.Study:
    """Create or join the study of this name, and enqueue its variants and what a user has `given`.

    Any number of processes may call this at once. `retry` is as for `enqueue`. With `redefine`,
    what `search.database.redefinition` allows is changed in the database.

    Raises:
        UserError: the study in the database was not made by this service, is a copy or has another
            definition, or a fixed value does not fit; nothing is written.
    """
    for params in given:
        study.space.check(params)
    definition = study.definition(data_digest, precision)
    with database.lock(f"name/{study.name}"):
        ref = _created(database, study, definition)
    joined = optuna.load_study(study_name=study.name, storage=database.optuna)
    stored = joined.user_attrs[DEFINITION]
    can = all(map(is_redefinable, changed(stored, definition)))
    if redefine and can:
        redefinition.redefine(database, joined, study.space, definition)
    elif found := differences(stored, definition):
        way = "--redefine to change it, " if can else ""
        raise UserError(
            f"--name {study.name}: the study of this name differs: {'; '.join(found)}. "
            f"Give the same options as before, {way}another --name, or remove the study with "
            "`python -m search delete`"
        )
    _keep_published(database, ref, study)
    variants = [
        Fixed(params=study.space.params(choices), attributes={VARIANT: name})
        for name, choices in study.variants.items()
    ]
    enqueue(database, joined, study.space, variants, given, retry=retry)
    return joined


def enqueue(
    database: Database,
    joined: optuna.Study,
    space: Space[Any],
    fixed: Sequence[Fixed],
    given: Sequence[Mapping[str, Value]] = (),
    *,
    retry: bool = True,
) -> None:
    """Enqueue those of the `fixed` trials and of the values `given` by a user that the study lacks.

    Any number of processes may call this at once. A fixed trial that failed is enqueued again only
    to `retry` it; values that failed always are.

    Raises:
        UserError: the study has a fixed trial of the same name with other values; nothing is
            written.
    """
    with database.lock(study_ref(joined).key):
        every = joined.get_trials(deepcopy=False)
        trials = [
            trial
            for trial in every
            if trial.state != TrialState.FAIL or CANCELED in trial.user_attrs
        ]
        for one in _lacking_fixed(joined, space, fixed, trials if retry else every):
            joined.enqueue_trial(dict(one.params), user_attrs=dict(one.attributes))
        for params in _lacking_given(given, trials):
            joined.enqueue_trial(params, user_attrs={ENQUEUED: params})


def stored_definition(database: Database, name: str) -> Definition | None:
    """Return the definition of the study called `name`; None if there is none.

    Raises:
        UserError: the study of this name was not made by this service, or is a copy.
    """
    with database.engine.connect() as connection:
        return definition_in(connection, name)


def definition_in(connection: Connection, name: str) -> Definition | None:
    """As `stored_definition`, in a database that need not hold any tables yet."""
    with _another_name_helps():
        found = identify(connection, name)
    if found is None or not found.is_created:
        return None
    attributes = optuna_internals.study_user_attributes
    query = select(attributes.c.value_json).where(
        attributes.c.study_id == found.ref.study_id, attributes.c.key == DEFINITION
    )
    definition: Definition = json.loads(connection.execute(query).scalar_one())
    return definition


def rerun_study(database: Database, study_key: str) -> str | None:
    """Return the name of the study with the re-runs of a study's best trials, or None.

    It is found by the study's key, which survives renaming.
    """
    studies, attributes = optuna_internals.studies, optuna_internals.study_user_attributes
    query = (
        select(studies.c.study_name)
        .join(attributes, attributes.c.study_id == studies.c.study_id)
        .where(attributes.c.key == ORIGIN_KEY, attributes.c.value_json == json.dumps(study_key))
    )
    with database.engine.connect() as connection:
        for name in connection.scalars(query).all():
            with suppress(UserError):  # a copy; its original is among the names too
                if identify(connection, name) is not None:
                    return str(name)
    return None


def study_called(database: Database, name: str) -> StudyRef:
    """Return the study called `name`.

    Raises:
        UserError: there is none, or it was not made by this service, or is a copy.
    """
    found = _identified(database, name)
    if found is None or not found.is_created:
        known = ", ".join(sorted(optuna.get_all_study_names(database.optuna)))
        raise UserError(f"study {name}: {database} has no such study; it has {known or 'none'}")
    return found.ref


def delete_study(database: Database, study: StudyRef) -> None:
    """Delete the study and all that was recorded of it; its files stay.

    Raises:
        UserError: workers are running trials of it.
    """
    with database.lock(study.key) as connection:
        leases.check_idle(connection, study.key)
        optuna_internals.delete_study(connection, study.study_id)
        for table in (*tables.OF_STUDIES, tables.leases, tables.steering, _rows):
            connection.execute(delete(table).where(table.c.study_key == study.key))


def copy_study(
    database: Database, study: StudyRef, name: str, *, files: str, prefix: str
) -> StudyRef:
    """Copy the study with all that was recorded of it under another name, in one transaction.

    `prefix` is that of the ids of its files, and `files` that of the copies. A trial that runs
    goes on in a worker of the copy, after its last recorded epoch.

    Raises:
        UserError: there is a study of this name.
    """
    key = new_key()
    with database.lock(study.key) as connection:
        names = optuna_internals.studies.c.study_name
        if connection.scalar(select(names).where(names == name)) is not None:
            raise UserError(f"study {name}: {database} has a study of this name; choose another")
        copied = StudyRef(
            study_id=optuna_internals.copy_study(connection, study.study_id, name), key=key
        )
        connection.execute(
            insert(_rows).values(study_key=key, study_id=copied.study_id, name=name, files=files)
        )
        for table in tables.OF_STUDIES:
            columns = [column for column in table.c if column.name != "id"]
            mine = [literal(key) if c.name == "study_key" else c for c in columns]
            query = select(*mine).where(table.c.study_key == study.key).order_by(*table.primary_key)
            connection.execute(insert(table).from_select([c.name for c in columns], query))
        optuna_internals.set_study_user_attribute(connection, copied.study_id, KEY, key)
        # Of two studies with the re-runs of another one, neither would be it.
        optuna_internals.drop_study_user_attribute(connection, copied.study_id, ORIGIN_KEY)
        artifact_lists.rename(connection, copied, prefix, files)
    return copied


def with_reruns(database: Database, study: StudyRef) -> list[StudyRef]:
    """Return the study, and the one with the re-runs of its best trials if there is one."""
    reruns = rerun_study(database, study.key)
    return [study] if reruns is None else [study, study_called(database, reruns)]


def files_of(database: Database, ref: StudyRef) -> str:
    """Return the prefix of the ids of all artifacts that the study writes."""
    query = select(_rows.c.files).where(_rows.c.study_key == ref.key)
    with database.engine.connect() as connection:
        return str(connection.execute(query).scalar_one())


@contextmanager
def _another_name_helps() -> Iterator[None]:
    """Let the error on a study that is not of this service tell of the option --name."""
    try:
        yield
    except NotOurs as error:
        raise UserError(
            f"--name {error.name}: the study of this name {error.why}; choose another --name"
        ) from error


def _identified(database: Database, name: str) -> Identified | None:
    with database.engine.connect() as connection:
        return identify(connection, name)


def _created(database: Database, study: Study, definition: Definition) -> StudyRef:
    """Return the study of this name, creating it if necessary; only under the name's lock.

    A process that is killed in between leaves a row without Optuna's id. The next process completes
    that study.
    """
    with _another_name_helps():
        found = _identified(database, study.name)
    if found is not None and found.is_created:
        if found.is_renamed:
            _settle(database, found.ref, study.name)
        return found.ref
    if found is None:
        key = new_key()
        with database.engine.begin() as connection:
            pending = (_rows.c.name == study.name) & _rows.c.study_id.is_(None)
            connection.execute(delete(_rows).where(pending))
            connection.execute(
                insert(_rows).values(study_key=key, name=study.name, files=new_key())
            )
    else:
        key = found.ref.key
    created = optuna.create_study(
        study_name=study.name,
        storage=database.optuna,
        direction=study.direction,
        load_if_exists=True,
    )
    created.set_user_attr(KEY, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        created.set_metric_names([study.metric])
    created.set_user_attr(DEFINITION, definition)
    ref = study_ref(created)
    _settle(database, ref, study.name)
    return ref


def _keep_published(database: Database, ref: StudyRef, study: Study) -> None:
    """Store the published figures by variant and epoch, so that curves can be drawn without the
    study file."""
    now: dict[str, dict[str, Mapping[str, float]]] = {}
    if not study.incomparable:
        for (variant, epoch), figures in study.published_figures.items():
            now.setdefault(variant, {})[str(epoch)] = figures
    if database.optuna.get_study_system_attrs(ref.study_id).get(PUBLISHED, {}) != now:
        database.optuna.set_study_system_attr(ref.study_id, PUBLISHED, now)


def published_for(
    database: Database, ref: StudyRef, variant: str | None
) -> Mapping[int, Mapping[str, float]]:
    """Return the stored published figures of a variant by epoch; empty if there are none."""
    stored = database.optuna.get_study_system_attrs(ref.study_id).get(PUBLISHED, {})
    return {int(epoch): of for epoch, of in stored.get(variant, {}).items()}


def _settle(database: Database, ref: StudyRef, name: str) -> None:
    """Store Optuna's id and name of the study."""
    with database.engine.begin() as connection:
        connection.execute(
            update(_rows)
            .where(_rows.c.study_key == ref.key)
            .values(study_id=ref.study_id, name=name)
        )


def _lacking_fixed(
    joined: optuna.Study, space: Space[Any], fixed: Sequence[Fixed], trials: list[FrozenTrial]
) -> list[Fixed]:
    there: dict[str, list[Mapping[str, Value]]] = {}  # other tools can reuse a name
    for trial in map(readable, trials):
        params = trial.system_attrs.get(FIXED_PARAMS, trial.params)
        if (name := fixed_name(trial)) is not None and isinstance(params, dict):
            with suppress(UserError):  # it may have been begun before a field was added
                params = space.complete(params)
            there.setdefault(name, []).append(params)
    for one in fixed:
        if one.params not in there.get(one.name, [one.params]):
            raise UserError(
                f"--name {joined.study_name}: {one.name} is {written(there[one.name][0])} in the "
                f"database and {written(one.params)} here; choose another --name"
            )
    return [one for one in fixed if one.name not in there]


def _lacking_given(
    enqueue: Sequence[Mapping[str, Value]], trials: list[FrozenTrial]
) -> list[dict[str, Value]]:
    there = [trial.user_attrs[ENQUEUED] for trial in trials if ENQUEUED in trial.user_attrs]
    lacking: list[dict[str, Value]] = []
    for params in map(dict, enqueue):
        if params not in there + lacking:
            lacking.append(params)
    return lacking
