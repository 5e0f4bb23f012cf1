"""Which weights are to be kept, and whether just those are."""

import hashlib
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from search.database import tables
from search.database.database import Database
from search.database.optuna_internals import trial_id, trial_system_attributes


def stored_sums(database: Database) -> dict[int, str]:
    """SHA-256 by the trial's number, as the database has it."""
    with database.engine.connect() as connection:
        return {row.trial: row.sha256 for row in connection.execute(select(tables.weights))}


def expected_numbers(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of the trials whose weights are to be there."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: trial.number)
    best.sort(key=lambda trial: trial.values[0], reverse=True)
    return {t.number for t in best[:5]} | {t.number for t in complete if "variant" in t.user_attrs}


def check(database: Database, folder: Path, expected: set[int]) -> None:
    """Compare the database, Optuna's lists and the files in `folder`: all have the weights of just
    `expected`."""
    trials = database.optuna.get_all_trials(1, deepcopy=False)
    numbers = {trial_id(trial): trial.number for trial in trials}
    sums = stored_sums(database)
    assert set(sums) == expected
    with database.engine.connect() as connection:
        attributes = connection.execute(select(trial_system_attributes)).all()
    listed = [row for row in attributes if row.key.startswith("artifacts:")]
    assert sorted(numbers[row.trial_id] for row in listed) == sorted(expected)
    files = {row.key.removeprefix("artifacts:"): sums[numbers[row.trial_id]] for row in listed}
    assert {path.name: file_sum(path) for path in folder.iterdir()} == files


def file_sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
