"""A study is joined only with its own definition: a difference is refused by name.

The budget may change.
"""

import dataclasses

import optuna
import pytest

from search.database.database import Database
from search.database.identity import DEFINITION
from search.database.studies import join, stored_definition
from search.errors import UserError
from search.study.study import Study
from tests.support.commands import QUICK, Command


def _join(database: Database, study: Study, **options: object) -> optuna.Study:
    return join(database, study, **{"data_digest": "x"} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epochs": 7}, "epochs is 4 in the database and 7 here"),
        ({"images": None}, "images is 160 in the database and not set here"),
        ({"pruner": optuna.pruners.NopPruner()}, "pruner is 'SuccessiveHalving.*'NopPruner"),
    ],
)
def test_another_definition_is_refused_with_the_difference_named(
    database: Database, study: Study, change: dict[str, object], complaint: str
) -> None:
    _join(database, study)
    with pytest.raises(UserError, match=complaint):
        _join(database, study.changed(change))
    with pytest.raises(UserError, match="data is 'x' in the database and 'y' here"):
        _join(database, study, data_digest="y")
    assert len(_join(database, study).trials) == 2


def test_another_budget_is_no_difference(database: Database, study: Study) -> None:
    before = _join(database, study).trials
    assert _join(database, dataclasses.replace(study, trials=100)).trials == before


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


@pytest.mark.parametrize("changed", [None, "gone", {"epochs": "two"}])
def test_a_definition_that_somebody_changed_is_refused_by_name(
    database: Database, study: Study, changed: object
) -> None:
    join(database, study, data_digest="x").set_user_attr(DEFINITION, changed)
    with pytest.raises(
        UserError, match=r"--name small: .* has another user attribute 'definition'"
    ):
        join(database, study, data_digest="x")
    with pytest.raises(
        UserError, match=r"--name small: .* has another user attribute 'definition'"
    ):
        stored_definition(database, study.name)


def test_the_command_refuses_another_definition(search: Command) -> None:
    search("run", *QUICK[:-1], 1)
    done = search("run", "--study", "digits", "--images", 160, "--epochs", 4)
    assert done.returncode == 2
    assert "epochs is 3 in the database and 4 here" in done.stderr
