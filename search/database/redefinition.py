"""Redefinition: ranges, a sampler or a pruner that change while a study goes on.

They decide which trials are tried and when they stop. What decides how a trial ends, such as the
data, the epochs and the seed, cannot change, so that all trials of a study can be compared. Trials
that were begun before keep the values that they have.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, json_to_distribution
from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from search.database import leases, optuna_internals, queries, steering
from search.database.database import Database
from search.database.identity import DEFINITION, study_ref
from search.database.queries import Entry, StudyRef
from search.database.tables import epochs
from search.errors import UserError
from search.study.definition import RANGE, Definition, Redefinition, changed
from search.study.space import Space, Value

REDEFINED = "search:redefined"
"""System attribute of a study: its redefinitions, the latest last."""


def redefinitions(database: Database, study: StudyRef) -> list[Redefinition]:
    """Return the redefinitions of a study, the latest last."""
    stored = database.optuna.get_study_system_attrs(study.study_id).get(REDEFINED, [])
    return [Redefinition(**one) for one in stored]


def redefine(
    database: Database, joined: optuna.Study, space: Space[Any], asked: Definition
) -> None:
    """Let the study have the definition `asked`, whose ranges are those of `space`.

    Workers that are at no trial end, since theirs is another one. A trial that nothing was recorded
    of is drawn again; a fixed one that waits has the default of a parameter that is new.

    Raises:
        UserError: a parameter is gone, a new one has no default, an enqueued trial would be
            outside, or workers are running trials; nothing is written.
    """
    ref = study_ref(joined)
    with database.lock(ref.key) as connection:
        before = redefinitions(database, ref)
        stored: Definition = joined.user_attrs[DEFINITION]
        names = changed(stored, asked)
        if not names:
            return  # another process has just done it
        _check(joined.study_name, space, stored, asked)
        leases.check_idle(connection, ref.key)
        unfinished = queries.unfinished(connection, ref)
        # A worker that was silent for long may wake up.
        leases.drop(connection, ref.key, {trial.number for trial in unfinished})
        for trial in unfinished:
            if trial.state != TrialState.FAIL and not _is_recorded(connection, ref, trial):
                _draw_again(connection, space, trial)
        trials = optuna_internals.trials.c
        own = select(func.count()).where(trials.study_id == ref.study_id)
        now = Redefinition(
            trial=connection.execute(own).scalar_one(),
            before={name: stored.get(name) for name in names},
        )
        attributes = [asdict(one) for one in (*before, now)]
        optuna_internals.set_study_system_attribute(connection, ref.study_id, REDEFINED, attributes)
        optuna_internals.set_study_user_attribute(connection, ref.study_id, DEFINITION, asked)
        steering.stop_within(connection, ref)


def _check(name: str, space: Space[Any], stored: Definition, asked: Definition) -> None:
    """Raises:
    UserError: a parameter or a class is gone, or a new parameter has no default.
    """
    for setting in changed(stored, asked):
        parameter = setting.removeprefix(RANGE)
        if setting.startswith(RANGE) and asked.get(setting) is None:
            raise UserError(
                f"--redefine: the choices lack {parameter}, which trials of the study {name} have; "
                "give it a range of one value instead"
            )
        classes = space.classes(parameter) if setting.startswith(RANGE) else None
        if classes is not None and (gone := _categories(setting, stored) - classes):
            raise UserError(
                f"--redefine: {parameter} lacks the class {min(map(str, gone))}, which trials of "
                f"the study {name} may have; keep the class, and leave it out by `ranges`"
            )
        is_new = setting.startswith(RANGE) and stored.get(setting) is None
        if is_new and not (space.has_default(parameter) or _is_of_new_class(parameter, stored)):
            raise UserError(
                f"--redefine: {parameter} is new; give its field a default, the value of the "
                f"trials that the study {name} has"
            )


def _is_of_new_class(parameter: str, stored: Definition) -> bool:
    """Return whether a parameter belongs to a class that no trial can have taken."""
    branch, *rest = parameter.rsplit(".", 2)
    if not rest:
        return False
    return rest[0] not in _categories(f"{RANGE}{branch}", stored)


def _categories(setting: str, stored: Definition) -> set[object]:
    """Return the categories of a range; none if it is new, or has none."""
    before = stored.get(setting)
    found = None if before is None else json_to_distribution(str(before))
    return set(found.choices) if isinstance(found, CategoricalDistribution) else set()


def _is_recorded(connection: Connection, study: StudyRef, trial: Entry) -> bool:
    mine = epochs.c.study_key == study.key, epochs.c.trial == trial.number
    return connection.scalar(select(epochs.c.id).where(*mine).limit(1)) is not None


def _draw_again(connection: Connection, space: Space[Any], trial: Entry) -> None:
    """Raises:
    UserError: what the trial was enqueued with is outside the new ranges.
    """
    optuna_internals.draw_again(connection, trial.trial_id)
    try:
        given, _ = queries.given_values(connection, trial.trial_id)
        values: Mapping[str, Value] = given
        if trial.is_rerun:
            values = space.complete(given)
        elif trial.name is None:
            space.check(given)
        else:
            values = space.complete_in_range(given)
    except ValueError as error:
        raise UserError(
            f"--redefine: trial {trial.number} was enqueued with {error}; the command `cancel` "
            "takes it back"
        ) from error
    if values != given:
        optuna_internals.set_system_attribute(
            connection, trial.trial_id, optuna_internals.FIXED_PARAMS, values
        )
