"""How a study comes to be in the database, and who may join it.

The first process creates the study and stores its definition; every other one must bring the same
definition. Whoever joins enqueues what the study lacks of its fixed trials, under the study's lock.
"""

import uuid
from collections.abc import Mapping, Sequence
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.choices import Value, check_params, written
from search.definition import Definition, differences
from search.errors import UserError
from search.pruning import Sparing
from search.rungs import Recorded
from search.sampling import Repeatable
from search.storage import Database
from search.study import Study
from search.trials import ENQUEUED, VARIANT, Fixed, fixed_name, is_fixed

DEFINITION = "definition"
"""User attribute of a study: its definition."""
FOLDER = "folder"
"""User attribute of a study: the name of its folder among the artifacts, unlike any other's."""


def join(
    database: Database,
    study: Study,
    *,
    data_digest: str,
    enqueue: Sequence[Mapping[str, Value]] = (),
    reruns: Sequence[Fixed] = (),
    retry: bool = True,
) -> optuna.Study:
    """Create or join the study of this name, and enqueue its variants, the trials `enqueue` and
    the re-runs.

    What is there already is not enqueued again, unless it failed and `retry` is asked for; fixed
    values that `enqueue` holds twice are to be there twice. Any number of processes may call this
    at once.

    Raises:
        UserError: the study in the database has another definition, a fixed value does not fit,
            or the budget has no room for `enqueue`; nothing is written.
    """
    for params in enqueue:
        check_params(params, study.ranges)
    with database.lock(study.name):
        joined = _create(database, study)
        _agree(database, joined, study.definition(data_digest))
        every = joined.get_trials(deepcopy=False)
        trials = [trial for trial in every if trial.state != TrialState.FAIL]
        variants = [
            Fixed(params=choices.params(), attributes={VARIANT: name})
            for name, choices in study.variants.items()
        ]
        fixed = _lacking_fixed(joined, [*variants, *reruns], trials if retry else every)
        given = _lacking_given(enqueue, trials)
        needed = len(trials) + len(fixed) + len(given)
        if given and needed > study.trials:
            raise UserError(
                f"--enqueue: with the trials that are there the study has {needed}, and its "
                f"budget is {study.trials}; give --trials {needed} or more"
            )
        for one in fixed:
            joined.enqueue_trial(dict(one.params), user_attrs=dict(one.attributes))
        for params in given:
            joined.enqueue_trial(params, user_attrs={ENQUEUED: params})
    return joined


def stored_definition(database: Database, name: str) -> Definition | None:
    """Return the definition of the study called `name`; None if the database has no such study.

    Raises:
        UserError: the study of this name was not made by this service.
    """
    storage = database.optuna
    ids = {study.study_name: study._study_id for study in storage.get_all_studies()}
    if name not in ids:
        return None
    definition: Definition | None = storage.get_study_user_attrs(ids[name]).get(DEFINITION)
    if definition is None:
        raise UserError(
            f"--name {name}: the study of this name was not made by this service; "
            "choose another --name"
        )
    return definition


def artifacts_key(joined: optuna.Study) -> str:
    """Return what tells the study from those of all databases, in hexadecimal digits."""
    return str(joined.user_attrs[FOLDER])


def artifacts_folder(joined: optuna.Study) -> str:
    """Return the name of the study's folder among the artifacts.

    A study of the same name in another database has another one.
    """
    return f"{joined.study_name}-{artifacts_key(joined)}"


def _create(database: Database, study: Study) -> optuna.Study:
    return optuna.create_study(
        study_name=study.name,
        storage=database.optuna,
        direction="maximize",
        load_if_exists=True,
        sampler=Repeatable(study.sampler, study.seed),
        pruner=Sparing(study.pruner, is_fixed, partial(Recorded, database)),
    )


def _agree(database: Database, joined: optuna.Study, definition: Definition) -> None:
    stored = joined.user_attrs.get(DEFINITION)
    if stored is None:
        if joined.get_trials(deepcopy=False):
            raise UserError(
                f"--name {joined.study_name}: the study of this name was not made by this service; "
                "choose another --name"
            )
        database.forget(joined._study_id)
        joined.set_user_attr(FOLDER, uuid.uuid4().hex[:8])
        joined.set_user_attr(DEFINITION, definition)
    elif found := differences(stored, definition):
        raise UserError(
            f"--name {joined.study_name}: the study of this name differs: {'; '.join(found)}. "
            "Give the same options as before, or choose another --name"
        )


def _lacking_fixed(
    joined: optuna.Study, fixed: Sequence[Fixed], trials: list[FrozenTrial]
) -> list[Fixed]:
    there = {
        name: trial.system_attrs["fixed_params"]
        for trial in trials
        if (name := fixed_name(trial)) is not None
    }
    for one in fixed:
        if there.get(one.name, one.params) != one.params:
            raise UserError(
                f"--name {joined.study_name}: {one.name} is {written(there[one.name])} in the "
                f"database and {written(one.params)} here; choose another --name"
            )
    return [one for one in fixed if one.name not in there]


def _lacking_given(
    enqueue: Sequence[Mapping[str, Value]], trials: list[FrozenTrial]
) -> list[dict[str, Value]]:
    there = [trial.user_attrs[ENQUEUED] for trial in trials if ENQUEUED in trial.user_attrs]
    lacking = []
    for params in map(dict, enqueue):
        if params in there:
            there.remove(params)
        else:
            lacking.append(params)
    return lacking
