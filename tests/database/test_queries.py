"""What is asked of the database in one query equals what Optuna's whole list of trials says."""

import copy
import dataclasses
from collections import Counter
from functools import partial

import optuna
import pytest
from optuna.trial import TrialState

from search.database import queries
from search.database.database import Database
from search.database.identity import study_ref
from search.database.optuna_internals import trial_id
from search.database.rungs import Recorded
from search.database.studies import join
from search.study.study import Study
from search.study.trial_attributes import fixed_name
from tests.support.curves import HALVING
from tests.support.made_up import made_up

FINAL = 5


@pytest.fixture
def joined(database: Database, study: Study) -> optuna.Study:
    """24 ended trials, some of equal accuracy, a failed variant, and what is not ended."""
    study = dataclasses.replace(study, epochs=FINAL, trials=200)
    made_up(database, study, 24)
    joined = join(database, study, data_digest="none", given=[{"lr": 0.02}])
    first = joined.ask()
    assert fixed_name(joined.trials[first.number]) == "question-1"
    joined.tell(first, state=TrialState.FAIL)
    return joined


@pytest.fixture
def trials(joined: optuna.Study, url: str) -> list[optuna.trial.FrozenTrial]:
    """The same study as another process reads it."""
    other = Database(url)
    found = optuna.load_study(study_name=joined.study_name, storage=other.optuna).get_trials()
    other.close()
    return found


def test_counts_and_unfinished_trials_are_optunas(
    database: Database, joined: optuna.Study, trials: list[optuna.trial.FrozenTrial]
) -> None:
    ref = study_ref(joined)
    with database.engine.connect() as connection:
        assert queries.counts(connection, ref) == Counter(t.state for t in trials)
        unfinished = queries.unfinished(connection, ref)
        fixed = queries.fixed(connection, ref)
    expected = [
        (trial_id(trial), trial.number, trial.state, fixed_name(trial))
        for trial in trials
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    assert [(e.trial_id, e.number, e.state, e.name) for e in unfinished] == expected
    assert [e.name for e in unfinished] == ["question-1", "question-3", None]
    assert fixed == unfinished[:2]


def _ranked(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-trial.values[0], trial.number))


def test_the_best_trials_are_those_that_are_ranked_first(
    database: Database, joined: optuna.Study, trials: list[optuna.trial.FrozenTrial]
) -> None:
    ref = study_ref(joined)
    with database.engine.connect() as connection:
        best = queries.best(connection, ref, epochs=FINAL, n=7)
    expected = [(trial_id(t), t.number, t.value) for t in _ranked(trials)[:7]]
    assert [(place.trial_id, place.number, place.score) for place in best] == expected
    assert len({place.score for place in best}) < 7  # some are equal


def test_trials_are_cut_as_by_going_through_all_that_came_before(
    database: Database, joined: optuna.Study, trials: list[optuna.trial.FrozenTrial]
) -> None:
    halving = HALVING
    before = optuna.create_study(direction="maximize")
    cuts = []
    for trial in trials:
        for rung in (1, 4):
            now = copy.copy(trial)
            seen = {e: v for e, v in trial.intermediate_values.items() if e <= rung}
            now.intermediate_values = seen
            recorded = halving.cut(joined, now, partial(Recorded, database, study_ref(joined)))
            assert recorded == halving.cut(before, now)
            cuts += [recorded] * (max(seen, default=0) == rung)
        before.add_trial(trial)
    assert 0 < cuts.count(None) < len(cuts)
