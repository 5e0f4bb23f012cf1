"""How a study comes to be in the database, and who may join it.

The first process creates the study and stores its definition; every other one must bring the same
definition. Whoever joins enqueues what the study lacks of its fixed trials, under the study's lock.
"""

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.choices import Value, check_params, written
from search.errors import UserError
from search.pruning import Sparing
from search.sampling import Repeatable
from search.storage import Database
from search.study import ENQUEUED, VARIANT, Definition, Study, differences, is_variant

DEFINITION = "definition"
"""User attribute of a study: its definition."""


def join(
    database: Database,
    study: Study,
    name: str,
    *,
    data_digest: str,
    enqueue: Sequence[Mapping[str, Value]] = (),
) -> optuna.Study:
    """Create or join the study called `name`, and enqueue its variants and the trials `enqueue`.

    What is there already is not enqueued again, unless it failed; fixed values that `enqueue`
    holds twice are to be there twice. Any number of processes may call this at once.

    Raises:
        UserError: the study in the database has another definition, or a fixed value does not
            fit; nothing is written.
    """
    for params in enqueue:
        check_params(params, study.ranges)
    with database.lock(name):
        joined = _create(database, study, name)
        _agree(database, joined, study.definition(data_digest))
        trials = [trial for trial in joined.get_trials() if trial.state != TrialState.FAIL]
        _enqueue_variants(joined, study, trials)
        _enqueue_given(joined, enqueue, trials)
    return joined


def _create(database: Database, study: Study, name: str) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=database.optuna,
        direction="maximize",
        load_if_exists=True,
        sampler=Repeatable(study.sampler, study.seed),
        pruner=Sparing(study.pruner, is_variant),
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
        joined.set_user_attr(DEFINITION, definition)
    elif found := differences(stored, definition):
        raise UserError(
            f"--name {joined.study_name}: the study of this name differs: {'; '.join(found)}. "
            "Give the same options as before, or choose another --name"
        )


def _enqueue_variants(joined: optuna.Study, study: Study, trials: list[FrozenTrial]) -> None:
    there = {
        trial.user_attrs[VARIANT]: trial.system_attrs["fixed_params"]
        for trial in trials
        if is_variant(trial)
    }
    for name, choices in study.variants.items():
        params = choices.params()
        if there.get(name, params) != params:
            raise UserError(
                f"--name {joined.study_name}: variant {name} is {written(there[name])} in the "
                f"database and {written(params)} here; choose another --name"
            )
    for name, choices in study.variants.items():
        if name not in there:
            joined.enqueue_trial(choices.params(), user_attrs={VARIANT: name})


def _enqueue_given(
    joined: optuna.Study, enqueue: Sequence[Mapping[str, Value]], trials: list[FrozenTrial]
) -> None:
    there = [trial.user_attrs[ENQUEUED] for trial in trials if ENQUEUED in trial.user_attrs]
    for params in enqueue:
        if params in there:
            there.remove(params)
        else:
            joined.enqueue_trial(dict(params), user_attrs={ENQUEUED: dict(params)})
