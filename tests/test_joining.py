import dataclasses
import re
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.errors import UserError
from search.joining import artifacts_folder, join
from search.storage import Database
from search.study import Study
from search.trials import ENQUEUED


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
    assert fixed == study.variants["question-3"].params()


def test_a_variant_that_failed_is_enqueued_again(database: Database, study: Study) -> None:
    joined = _join(database, study)
    joined.tell(joined.ask(), state=TrialState.FAIL)
    names = [trial.user_attrs["variant"] for trial in _join(database, study).trials]
    assert names == ["question-1", "question-3", "question-1"]


def test_given_trials_are_enqueued_once_however_often_the_command_is_run(
    database: Database, study: Study
) -> None:
    given = [{"lr": 0.02}, {"optimizer": "SGD"}, {"lr": 0.02}]
    for _ in range(2):
        joined = _join(database, study, enqueue=given)
    enqueued = [t.user_attrs[ENQUEUED] for t in joined.trials if ENQUEUED in t.user_attrs]
    assert enqueued == given


def test_given_trials_that_the_budget_has_no_room_for_are_refused(
    database: Database, study: Study
) -> None:
    full = dataclasses.replace(study, trials=3)
    given: list[dict[str, object]] = [{"lr": 0.02}]
    joined = _join(database, full, enqueue=given)
    joined.tell(joined.ask(), state=TrialState.FAIL)
    _join(database, full, enqueue=given)  # a trial that failed has not used up its place
    with pytest.raises(UserError, match="the study has 4, and its budget is 3; give --trials 4"):
        _join(database, full, enqueue=[*given, {"lr": 0.03}])
    assert sum(ENQUEUED in trial.user_attrs for trial in joined.trials) == 1


def test_a_failed_variant_is_enqueued_again_for_a_user_and_not_for_each_worker(
    database: Database, study: Study
) -> None:
    joined = _join(database, study)
    joined.tell(joined.ask(), state=TrialState.FAIL)
    assert len(_join(database, study, retry=False).trials) == 2
    for _ in range(2):
        again = _join(database, study)
    assert [trial.user_attrs for trial in again.trials[2:]] == [{"variant": "question-1"}]


def test_the_study_has_a_folder_unlike_that_of_another_database(
    database: Database, study: Study, tmp_path: Path
) -> None:
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    names = [artifacts_folder(_join(where, study)) for where in (database, database, other)]
    other.close()
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch("small-[0-9a-f]{8}", name) for name in names)


def test_fixed_values_are_checked_before_anything_is_written(
    database: Database, study: Study
) -> None:
    with pytest.raises(UserError, match="lr is a number"):
        _join(database, study, enqueue=[{"lr": 5.0}])
    assert database.optuna.get_all_studies() == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epochs": 7}, "epochs is 4 in the database and 7 here"),
        ({"images": None}, "images is 160 in the database and None here"),
        ({"pruner": optuna.pruners.NopPruner()}, "pruner is 'SuccessiveHalving.*'NopPruner"),
    ],
)
def test_another_definition_is_refused_with_the_difference_named(
    database: Database, study: Study, change: dict[str, object], complaint: str
) -> None:
    _join(database, study)
    with pytest.raises(UserError, match=complaint):
        _join(database, dataclasses.replace(study, **change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="data is 'x' in the database and 'y' here"):
        _join(database, study, data_digest="y")
    assert len(_join(database, study).trials) == 2


def test_another_budget_is_no_difference(database: Database, study: Study) -> None:
    _join(database, study)
    _join(database, dataclasses.replace(study, trials=100))


def test_a_variant_of_other_values_is_refused(database: Database, study: Study) -> None:
    _join(database, study)
    changed = dataclasses.replace(study.variants["question-3"], lr=0.002)
    with pytest.raises(UserError, match=r"question-3 is .*lr=0.001 .* and .*lr=0.002"):
        _join(database, dataclasses.replace(study, variants={"question-3": changed}))


def test_a_study_that_something_else_made_is_refused(database: Database, study: Study) -> None:
    theirs = optuna.create_study(study_name="small", storage=database.optuna)
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(UserError, match="was not made by this service"):
        _join(database, study)
