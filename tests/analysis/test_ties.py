"""How far an accuracy can differ by the finite test set alone."""

import dataclasses
from typing import Any

import pytest
from optuna.trial import FrozenTrial, create_trial
from rich.console import Console

from search.analysis.answer import answer_from_reruns
from search.analysis.rerun_metrics import Repeats
from search.analysis.ties import Ties
from search.database.snapshot import Overview
from search.reporting.terminal import summary
from search.study.study import Study
from studies.cifar import study as cifar
from tests.support.curves import study as curves
from tests.support.epochs import epoch


def _trials(*values: float) -> list[FrozenTrial]:
    trials = [create_trial(value=value) for value in values]
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


def _ties(study: Study, *values: float) -> Ties:
    trials = _trials(*values)
    overview = Overview.of_trials(
        trials, study_key="", epochs={}, n_epochs=1, objective=study.objective, final=study.final
    )
    return Ties.of(study, trials, answer_from_reruns(overview, {}))


@pytest.mark.parametrize(
    ("changes", "n", "margin"),  # 2 sqrt(0.75 * 0.25 / n)
    [
        ({}, "10,000 test images", 0.00866),
        ({"images": 300}, "300 test images", 0.05),
        ({"metric": "validation_accuracy"}, "5,000 validation images", 0.012247),
        ({"dataset": "digits"}, "359 test images", 0.045708),
    ],
)
def test_within_twice_the_binomial_standard_error_of_the_best_is_a_tie(
    changes: dict[str, Any], n: str, margin: float
) -> None:
    study = dataclasses.replace(cifar, published=None).changed(changes)
    found = _ties(study, 0.75, 0.75, 0.75 - margin + 1e-5, 0.75 - margin - 1e-5, 0.1)
    assert found.numbers == {1, 2}
    assert found.to_run_again == "--top 5"
    assert found.text == (
        f"A difference up to {margin:.4f} is within twice the standard error of {n}; = marks such "
        "a tie with the best."
    )
    alone = _ties(study, 0.75, 0.1)
    assert alone.text.endswith(f"standard error of {n}.")
    assert alone.to_run_again == "--trial best"


@pytest.mark.parametrize(
    "study",
    [
        curves,
        dataclasses.replace(cifar, metric="test_loss", direction="minimize", published=None),
        dataclasses.replace(cifar, published=None).changed({"dataset": "folder:flowers"}),
    ],
)
def test_only_the_same_value_is_a_tie_where_the_error_is_not_known(study: Study) -> None:
    found = _ties(study, 0.75, 0.75, 0.75 + 1e-9)
    assert found.numbers == {1}
    assert found.text == "= marks the same value as the best."
    assert _ties(study, 0.75, 0.7) == _ties(study) == Ties()


def test_once_re_runs_compare_trials_they_alone_tell_ties(study: Study) -> None:
    trials = _trials(0.75, 0.74, 0.73)
    overview = Overview.of_trials(
        trials,
        study_key="",
        epochs={t.number: [epoch(1, test_accuracy=t.values[0])] for t in trials},
        n_epochs=1,
        objective=study.objective,
        final=study.final,
    )

    def shown(*means: float) -> str:
        runs: Repeats = {
            f"trial {number}": {k: [epoch(1, test_accuracy=mean + k / 100)] for k in range(3)}
            for number, mean in enumerate(means)
        }
        console = Console(width=200)
        with console.capture() as capture:
            console.print(summary(overview, study, answer_from_reruns(overview, runs)))
        return capture.get()

    for means in ((), (0.7,)):
        assert "= 0.7400" in shown(*means)
        assert "standard error of 160 test images" in shown(*means)
    compared = shown(0.7, 0.5)
    assert "= 0.7" not in compared
    assert "standard error" not in compared
