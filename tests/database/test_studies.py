import dataclasses
import re
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.database.database import Database
from search.database.identity import study_ref
from search.database.studies import files_of, join
from search.errors import UserError
from search.study.study import Study
from search.study.trial_attributes import ENQUEUED


def _join(database: Database, study: Study, **options: object) -> optuna.Study:
    return join(database, study, **{"data_digest": "x"} | options)  # type: ignore[arg-type]


def test_the_variants_are_enqueued_once_in_their_order(database: Database, study: Study) -> None:
    for _ in range(3):
        joined = _join(database, study)
    assert [trial.user_attrs for trial in joined.trials] == [
        {"variant": "question-1"},
        {"variant": "question-3"},
    ]
    assert {trial.state for trial in joined.trials} == {TrialState.WAITING}
    fixed = joined.trials[1].system_attrs["fixed_params"]
    assert fixed == study.space.params(study.variants["question-3"])


def test_given_trials_are_enqueued_once_however_often_they_are_given(
    database: Database, study: Study
) -> None:
    given = [{"lr": 0.02}, {"optimizer": "SGD"}, {"lr": 0.02}]
    for _ in range(2):
        joined = _join(database, study, given=given)
    enqueued = [t.user_attrs[ENQUEUED] for t in joined.trials if ENQUEUED in t.user_attrs]
    assert enqueued == given[:2]


def test_a_given_trial_that_failed_is_enqueued_again(database: Database, study: Study) -> None:
    alone = dataclasses.replace(study, variants={})
    given = [{"lr": 0.02}]
    joined = _join(database, alone, given=given)
    joined.tell(joined.ask(), state=TrialState.FAIL)
    assert len(_join(database, alone, given=given).trials) == 2


def test_the_study_has_a_key_and_files_unlike_those_of_another_database(
    database: Database, study: Study, tmp_path: Path
) -> None:
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    found = [(where, study_ref(_join(where, study))) for where in (database, database, other)]
    names = [(ref.key, files_of(where, ref)) for where, ref in found]
    other.close()
    assert names[0] == names[1]
    assert len({*names[0], *names[2]}) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", name) for pair in names for name in pair)


def test_fixed_values_are_checked_before_anything_is_written(
    database: Database, study: Study
) -> None:
    with pytest.raises(UserError, match="lr must be a number"):
        _join(database, study, given=[{"lr": 5.0}])
    assert database.optuna.get_all_studies() == []
