"""What is said of the best trials after their re-runs."""

import math

import pytest

from search.analysis.paired_test import finals, remaining_trials, rule, standings
from search.study.metrics import Direction, Objective
from tests.support.epochs import epoch

BEST = {0: 0.80, 1: 0.81, 2: 0.79}


def _p(differences: list[float]) -> float:
    """Student's t with two degrees of freedom has a closed form."""
    assert len(differences) == 3
    mean = sum(differences) / 3
    variance = sum((d - mean) ** 2 for d in differences) / 2
    t = mean / math.sqrt(variance / 3)
    return 0.5 + t / (2 * math.sqrt(2 + t * t))


def _apart(differences: list[float]) -> dict[int, float]:
    return {repeat: BEST[repeat] + d for repeat, d in enumerate(differences)}


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.10, -0.11, -0.12], "worse"),  # p = 0.001: left out of further seeds
        ([-0.10, -0.12, -0.20], "worse"),  # p = 0.02: worse, but not clearly
        ([-0.10, 0.02, -0.20], "tie"),
        ([-0.01, -0.01, -0.01], "worse"),
        ([-0.3, -0.3, -0.3], "worse"),  # equal but for rounding
        ([0.0, 0.0, 0.0], "tie"),
    ],
)
def test_a_trial_is_worse_by_a_paired_test_or_it_is_a_tie(
    differences: list[float], verdict: str
) -> None:
    found = {7: BEST, 3: _apart(differences)}
    first, second = standings(found, "maximize")
    assert (first.trial, first.verdict) == (7, "best" if verdict == "worse" else "tie")
    assert (second.trial, second.verdict) == (3, verdict)
    assert second.behind == pytest.approx(-sum(differences) / 3)
    if max(differences) - min(differences) > 1e-9:
        assert second.p == pytest.approx(_p(differences))
        assert remaining_trials(found, 3, "maximize") == ([7] if _p(differences) < 0.01 else [7, 3])


def test_nobody_is_left_out_before_three_seeds_or_by_later_ones() -> None:
    found = {7: BEST, 3: _apart([-0.5, -0.51, -0.52])}
    assert remaining_trials(found, 2, "maximize") == [7, 3]
    assert remaining_trials(found, 3, "maximize") == [7]
    recovered = {7: BEST | {3: 0.1}, 3: found[3] | {3: 0.9}}
    assert remaining_trials(recovered, 4, "maximize") == [7], "it had been left out before"
    assert remaining_trials(recovered, 2, "maximize") == [7, 3]


def test_one_that_was_left_out_is_named_so_however_it_did() -> None:
    found = {7: BEST | {3: 0.80}, 3: _apart([-0.10, -0.11, -0.12]), 5: BEST | {3: 0.79}}
    assert [(one.trial, one.verdict, one.honest.n) for one in standings(found, "maximize")] == [
        (7, "tie", 4),
        (5, "tie", 4),
        (3, "worse, left out", 3),
    ]


def test_trials_with_fewer_seeds_are_compared_over_the_seeds_that_all_have() -> None:
    lone = BEST | {3: 0.90, 4: 0.95}  # the search's winner was trained again by itself, before
    found = {7: lone, 3: _apart([0.01, 0.02, 0.015]), 5: _apart([-0.5, -0.51, -0.52])}
    first, second, third = standings(found, "maximize")
    assert (first.trial, first.verdict, first.honest.n) == (3, "best", 3)
    assert (second.trial, second.verdict) == (7, "worse")
    assert second.behind == pytest.approx(0.015)
    assert (third.trial, third.verdict) == (5, "worse, left out")
    tied = {7: lone, 3: _apart([-0.01, 0.02, -0.02])}
    assert [(one.trial, one.verdict) for one in standings(tied, "maximize")] == [
        (7, "tie"),
        (3, "tie"),
    ]


def test_trials_without_a_common_seed_are_not_told_apart() -> None:
    first, second = standings({7: {0: 0.5, 1: 0.6}, 3: {2: 0.8, 3: 0.9}}, "maximize")
    assert (first.trial, second.trial, second.verdict) == (3, 7, "one seed")
    assert math.isnan(second.behind)


def test_one_seed_says_nothing() -> None:
    found = standings({1: {0: 0.5}, 2: {0: 0.6}}, "maximize")
    assert [one.verdict for one in found] == ["one seed"] * 2
    assert standings({1: {}}, "maximize") == []


def test_where_lower_is_better_the_lowest_mean_is_the_best() -> None:
    found = {7: BEST, 3: _apart([-0.10, -0.11, -0.12]), 5: _apart([-0.10, -0.11, -0.13])}
    first, second, third = standings(found, "minimize")
    assert [one.trial for one in (first, second, third)] == [5, 3, 7]
    assert (first.verdict, second.verdict, third.verdict) == ("tie", "tie", "worse")
    assert (first.honest.lowest, first.honest.highest) == (0.79 - 0.13, 0.81 - 0.11)
    assert second.behind == pytest.approx(0.01 / 3)
    assert third.behind == pytest.approx(0.34 / 3)
    assert third.p == pytest.approx(_p([-0.10, -0.11, -0.13]))
    assert remaining_trials(found, 3, "minimize") == [3, 5]


ACCURACY = Objective(metric="test_accuracy", direction="maximize", diverged_as=0.0)


def test_a_run_that_diverged_counts_as_accuracy_0() -> None:
    epochs = [epoch(n, batch_loss=1.0, test_loss=1.0, test_accuracy=n / 10) for n in (1, 2, 3)]
    runs = {"trial 4": {0: epochs, 1: epochs[:2], 2: []}, "trial 5": {0: epochs}}
    assert finals(runs, [4, 6], ACCURACY, 3) == {4: {0: 0.3, 1: 0.0, 2: 0.0}, 6: {}}


@pytest.mark.parametrize(
    ("direction", "diverged_as", "diverged"),
    [
        ("maximize", 0.0, 0.0),
        ("minimize", 0.0, 0.0),
        ("maximize", None, 0.2),  # the worst of all
        ("minimize", None, 0.9),
    ],
)
def test_a_run_that_diverged_counts_as_the_study_says_or_as_the_worst(
    direction: Direction, diverged_as: float | None, diverged: float
) -> None:
    final = Objective(metric="auc", direction=direction, diverged_as=diverged_as)
    runs = {
        "trial 4": {0: [epoch(1, auc=0.9)], 1: []},
        "trial 5": {0: [epoch(1, auc=0.2)], 1: [epoch(1, auc=0.5)]},
        "trial 6": {0: [epoch(1, auc=0.1)], 1: [epoch(1, auc=1.0)]},  # not of these trials
    }
    assert finals(runs, [4, 5], final, 1) == {4: {0: 0.9, 1: diverged}, 5: {0: 0.2, 1: 0.5}}
    assert finals({"trial 4": {0: []}}, [4], final, 1) == {4: {0: 0.0}}


def test_the_rule_says_what_is_best_and_what_a_diverged_run_counts_as() -> None:
    said = rule(ACCURACY)
    assert "with the one with the highest mean" in said
    assert said.endswith("A diverged run counts as accuracy 0.")
    said = rule(Objective(metric="test_loss", direction="minimize"))
    assert "with the one with the lowest mean" in said
    assert said.endswith("A diverged run counts as the worst of all.")
