"""What is said of the best trials after their re-runs."""

import math

import pytest

from search.analysis.paired_test import Finals, finals, remaining_trials, rule, standings
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


@pytest.mark.parametrize(
    ("direction", "diverged_as", "diverged"),
    [
        ("maximize", 0.0, 0.0),
        ("minimize", 0.0, 0.0),
        ("maximize", None, 0.2),  # the worst of all
        ("minimize", None, 0.5),
    ],
)
def test_a_run_that_diverged_counts_as_the_final_metric_says(
    direction: Direction, diverged_as: float | None, diverged: float
) -> None:
    final = Objective(metric="valid_auc", direction=direction, diverged_as=diverged_as)
    epochs = [epoch(n, valid_auc=n / 10, other=1.0) for n in (1, 2, 3)]
    better, worse = [*epochs[:2], epoch(3, valid_auc=0.5)], [*epochs[:2], epoch(3, valid_auc=0.2)]
    runs = {
        "trial 4": {0: epochs, 1: epochs[:2], 2: []},
        "trial 5": {0: better, 1: worse},
        "trial 8": {0: [*epochs[:2], epoch(3, valid_auc=99.0)]},
    }
    assert finals(runs, [4, 5, 6], final, 3) == {
        4: {0: 0.3, 1: diverged, 2: diverged},
        5: {0: 0.5, 1: 0.2},
        6: {},
    }


def test_runs_that_all_diverged_are_equal() -> None:
    final = Objective(metric="auc", direction="maximize")
    assert finals({"trial 1": {0: [], 1: []}}, [1], final, 3) == {1: {0: 0.0, 1: 0.0}}


def test_where_lower_is_better_the_trials_stand_the_other_way_round() -> None:
    up: Finals = {
        7: BEST | {3: 0.80},
        3: _apart([-0.10, -0.11, -0.12]),
        5: _apart([-0.01, 0.02, -0.02]) | {3: 0.79},
    }
    down = {n: {repeat: 1 - value for repeat, value in of.items()} for n, of in up.items()}
    first, *rest = standings(down, "minimize")
    assert (first.trial, first.honest.mean) == (7, pytest.approx(0.2))
    for mine, theirs in zip([first, *rest], standings(up, "maximize"), strict=True):
        assert (mine.trial, mine.verdict) == (theirs.trial, theirs.verdict)
        assert mine.behind == pytest.approx(theirs.behind)
        assert mine.p == pytest.approx(theirs.p, nan_ok=True)
    assert remaining_trials(down, 3, "minimize") == remaining_trials(up, 3, "maximize") == [7, 5]


def test_the_rule_says_what_is_best_and_what_a_diverged_run_counts_as() -> None:
    up = rule(Objective(metric="test_accuracy", direction="maximize", diverged_as=0.0))
    assert "the one with the highest mean" in up
    assert up.endswith("A diverged run counts as accuracy 0.")
    down = rule(Objective(metric="log_loss", direction="minimize"))
    assert "the one with the lowest mean" in down
    assert down.endswith("A diverged run counts as the worst of all.")
