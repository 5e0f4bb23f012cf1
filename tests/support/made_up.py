"""A study of made-up trials, for what needs many of them: no training."""

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import insert

from search.database import tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.studies import join
from search.study.space import Value
from search.study.study import Study
from search.study.trial_attributes import REASON
from tests.support.epochs import columns, epoch


def made_up(database: Database, study: Study, n_trials: int) -> None:
    """Add `n_trials` ended trials to the study, two thirds of them pruned after their first epoch.

    The others are complete; accuracies rise with the epoch, and some are equal. The same each time.
    """
    joined = join(database, study, data_digest="none")
    before = len(joined.get_trials(deepcopy=False))
    rng = random.Random(before)
    trials = []
    for number in range(n_trials):
        params = {name: _drawn(rng, range_) for name, range_ in study.space.ranges.items()}
        n_epochs = study.epochs if number % 3 == 0 else 1
        values = {e: round(0.9 - 0.5 / e - rng.random() / 10, 2) for e in range(1, n_epochs + 1)}
        complete = n_epochs == study.epochs
        trials.append(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=values[n_epochs],
                params=params,
                distributions=study.space.ranges,
                intermediate_values=values,
                user_attrs={} if complete else {REASON: f"{values[1]:.4f} at epoch 1"},
            )
        )
    joined.add_trials(trials)
    _record(database, joined, before)


def add(
    database: Database,
    joined: optuna.Study,
    accuracies: Sequence[float],
    *,
    value: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    user_attrs: dict[str, Any] | None = None,
) -> None:
    """Add an ended trial of these accuracies, by epoch; `value` is what Optuna is told, None for
    the last of them."""
    before = len(joined.get_trials(deepcopy=False))
    values = dict(enumerate(accuracies, start=1))
    told = accuracies[-1] if value is None else value
    joined.add_trial(
        create_trial(state=state, value=told, intermediate_values=values, user_attrs=user_attrs)
    )
    _record(database, joined, before)


def _record(database: Database, joined: optuna.Study, before: int) -> None:
    """Keep the epochs of the trials from number `before` on, as workers do."""
    key = study_ref(joined).key
    rows = [
        {
            "study_key": key,
            "trial": trial.number,
            **columns(
                epoch(number, seconds=2.0, batch_loss=1.0, test_loss=1.0, test_accuracy=value)
            ),
        }
        for trial in joined.get_trials(deepcopy=False)[before:]
        for number, value in trial.intermediate_values.items()
    ]
    with database.engine.begin() as connection:
        connection.execute(insert(tables.epochs), rows)


def _drawn(rng: random.Random, distribution: BaseDistribution) -> Value:
    options = getattr(distribution, "choices", None)
    if options is not None:
        drawn: Value = rng.choice(options)
        return drawn
    return float(10 ** rng.uniform(-4, -1))
