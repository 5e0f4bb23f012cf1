"""The stored budget of a study, and what ends a search before it is spent."""

from collections.abc import Mapping
from typing import Any

import optuna

from search.database.budgets import agree_on_budget
from search.database.database import Database
from search.database.studies import join
from search.study.budget import Budget
from search.study.confirmation import Confirmation
from search.study.study import Study


def _join(database: Database, study: Study, **options: object) -> optuna.Study:
    return join(database, study, **{"data_digest": "x"} | options)  # type: ignore[arg-type]


def test_the_budget_is_kept_until_a_user_or_the_file_changes_it(
    database: Database, study: Study
) -> None:
    def budget(of_file: int, asked: int | None = None, *given: float) -> int | None:
        joined = _join(database, study, given=[{"lr": lr} for lr in given])
        agreed = agree_on_budget(
            database,
            joined,
            of_file=Budget(trials=of_file),
            asked={} if asked is None else {"trials": asked},
            has_enqueued=bool(given),
        )
        assert agreed.epochs is None
        return agreed.trials

    assert budget(6) == 6
    assert budget(6, 9) == 9
    assert budget(6) == 9
    assert budget(7) == 7  # the file was edited
    assert budget(7, 2) == 2
    assert budget(7) == 2
    assert budget(7, None, 0.02) == 3  # two variants, and what was given
    assert budget(7) == 3
    assert budget(7, 4, 0.03, 0.04) == 5


def test_a_budget_of_epochs_is_kept_and_has_room_for_what_is_given(
    database: Database, study: Study
) -> None:
    def budget(asked: Mapping[str, Any], *given: float) -> Budget:
        joined = _join(database, study, given=[{"lr": lr} for lr in given])
        return agree_on_budget(
            database, joined, of_file=study.budget, asked=asked, has_enqueued=bool(given)
        )

    assert budget({}) == Budget(trials=6)
    assert budget({"epochs": 5}) == budget({}) == Budget(epochs=5)
    # Two variants and what is given, of four epochs each.
    assert budget({}, 0.02) == budget({}) == Budget(epochs=12)
    assert budget({"trials": 2, "epochs": 40}, 0.03) == Budget(trials=4, epochs=40)
    assert budget({"trials": 9}) == budget({}) == Budget(trials=9)
    joined = _join(database, study, given=[{"lr": 0.04}])
    confirmed = agree_on_budget(
        database,
        joined,
        of_file=study.budget,
        asked={"epochs": 57},
        has_enqueued=True,
        confirm=Confirmation(trials=1, seeds=3, unused=7),
    )
    assert confirmed == Budget(epochs=4 * (5 + 10))  # five trials, and ten re-runs


def test_what_ends_a_search_early_is_kept_beside_the_budget(
    database: Database, study: Study
) -> None:
    joined = _join(database, study)

    def budget(**asked: float | None) -> Budget:
        return agree_on_budget(
            database, joined, of_file=study.budget, asked=asked, has_enqueued=False
        )

    assert budget(target=0.8) == budget() == Budget(trials=6, target=0.8)
    assert budget(epochs=5) == Budget(epochs=5, target=0.8)
    assert budget(patience=7, target=None) == budget() == Budget(epochs=5, patience=7)
    joined.set_user_attr("budget", {**joined.user_attrs["budget"], "target": "high"})
    assert budget() == Budget(trials=6)  # as in the study's file
