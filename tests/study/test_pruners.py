import copy
import warnings
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.trial import FrozenTrial

from search.errors import UserError
from search.study.definition import described
from search.study.pruners import ExemptingPruner, Promotion, SuccessiveHalving, check_pruner
from search.study.study import Study
from tests.support.curves import HALVING

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    PATIENT = PatientPruner(MedianPruner, 2)  # type: ignore[arg-type]  # a class
    PROMOTING = PatientPruner(Promotion(), 2)

Direction = Literal["maximize", "minimize"]


def _decisions(pruner: BasePruner, direction: Direction, seed: int) -> list[tuple[int, int]]:
    """Run 60 trials of up to 20 epochs, four at a time; return where each was pruned."""
    rng = np.random.default_rng(seed)
    # Hyperband's brackets follow from the name.
    study = optuna.create_study(study_name="one", direction=direction, pruner=pruner)
    curves = np.round(rng.random((60, 20)), 2)  # rounded, so that there are ties
    running: list[tuple[optuna.Trial, int]] = []
    waiting = list(range(60))
    pruned = []
    while running or waiting:
        while waiting and len(running) < 4:
            waiting.pop()
            running.append((study.ask(), 1))
        trial, epoch = running.pop(rng.integers(len(running)))
        trial.report(curves[trial.number, epoch - 1], step=epoch)
        if trial.should_prune():
            pruned.append((trial.number, epoch))
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif epoch == 20:
            study.tell(trial, curves[trial.number, -1])
        else:
            running.append((trial, epoch + 1))
    return pruned


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(("min_epochs", "factor"), [(1, 4), (2, 3), (1, 2)])
def test_decisions_are_those_of_optunas_successive_halving(
    direction: Direction, min_epochs: int, factor: int
) -> None:
    ours = SuccessiveHalving(min_epochs=min_epochs, factor=factor, keep=1 / factor)
    optunas = SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=factor)
    decisions = [_decisions(pruner, direction, seed=0) for pruner in (ours, optunas)]
    assert decisions[0] == decisions[1]
    assert 30 < len(decisions[0]) < 60


def _study_with(accuracies: list[float], pruner: BasePruner) -> optuna.Trial:
    """Return the last of so many running trials, each with one accuracy at epoch 1."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for accuracy in accuracies:
        trial = study.ask()
        trial.report(accuracy, step=1)
    return trial


def test_a_trial_that_is_asked_about_again_gets_the_same_answer() -> None:
    trial = _study_with([0.5, 0.6, 0.7, 0.4], HALVING)
    assert [trial.should_prune() for _ in range(3)] == [True] * 3


def test_between_the_rungs_nothing_is_pruned() -> None:
    trial = _study_with([0.5, 0.9, 0.9, 0.1], HALVING)
    for step in (2, 3):
        trial.report(0.0, step=step)
        assert not trial.should_prune()


def test_a_spared_trial_counts_on_its_rung_and_goes_on() -> None:
    def is_fourth(trial: FrozenTrial) -> bool:
        return trial.number == 3

    accuracies = [0.5, 0.6, 0.7, 0.4]
    assert _study_with(accuracies, HALVING).should_prune()
    assert not _study_with(accuracies, ExemptingPruner(HALVING, is_fourth)).should_prune()
    better = [0.5, 0.6, 0.4, 0.9, 0.7]  # the spared fourth is the best so far
    assert _study_with(better, ExemptingPruner(HALVING, is_fourth)).should_prune()


def test_the_reason_names_metric_epoch_and_cutoff() -> None:
    trial = _study_with([0.5, 0.6, 0.7, 0.4], HALVING)
    frozen = trial.study.trials[-1]
    cut = HALVING.cut(trial.study, frozen)
    assert cut is not None
    named = cut.of({"auc": 0.4}, "auc")
    assert str(named) == "auc 0.4000 at epoch 1, cut-off 0.7000"
    for finished in trial.study.trials[:3]:
        trial.study.tell(finished.number, 0.9)
    median = ExemptingPruner(MedianPruner(n_startup_trials=0), lambda trial: False)
    assert str(median.cut(trial.study, frozen)) == "0.4000 at epoch 1, pruned by MedianPruner"


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_pruners_of_optuna_decide_as_they_do_without_the_service() -> None:
    """Those that learn what is `auto` do not change the study, which others are to join."""
    for pruner in (
        MedianPruner(n_startup_trials=2),
        PercentilePruner(25.0, n_startup_trials=2),
        HyperbandPruner(),
        SuccessiveHalvingPruner(),
        ThresholdPruner(lower=0.2),
        PatientPruner(MedianPruner(n_startup_trials=2), patience=2),
        PatientPruner(None, patience=3),
        NopPruner(),
    ):
        check_pruner(pruner)
        before = described(pruner)
        spared = ExemptingPruner(pruner, lambda trial: False)
        assert _decisions(spared, "maximize", seed=1) == _decisions(
            copy.deepcopy(pruner), "maximize", seed=1
        ), before
        assert described(pruner) == before
    check_pruner(WilcoxonPruner())  # SciPy takes seconds for each decision where values are equal
    assert described(PatientPruner(NopPruner(), 3)) == (
        "PatientPruner(min_delta=0.0, patience=3, wrapped_pruner=NopPruner())"
    )


@pytest.mark.parametrize(
    ("pruner", "complaint"),
    [
        (MedianPruner, r"MedianPruner is a class; give an instance, such as MedianPruner\(\)"),
        (SuccessiveHalving, "SuccessiveHalving is a class"),
        (PATIENT, "MedianPruner is a class"),
        (PROMOTING, r"PatientPruner cannot decide for Promotion\(\)"),
        (None, r"None is not a pruner; .* NopPruner\(\) to prune nothing"),
        ("median", "'median' is not a pruner"),
        (lambda study, trial: False, "function .* is not a pruner"),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_what_is_no_pruner_is_refused_by_name(study: Study, pruner: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=f"^pruner: .*{complaint}"):
        replace(study, pruner=pruner)


def test_rungs_that_cannot_be_are_refused() -> None:
    for options in ({"min_epochs": 0}, {"factor": 1}):
        with pytest.raises(ValueError, match="at least 1"):
            SuccessiveHalving(**options)
        with pytest.raises(ValueError, match="at least 1"):
            replace(Promotion(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="first_loss must be the name of a metric, not ''"):
        Promotion(first_loss="")


def test_a_pruner_is_described_as_in_studies_that_were_made_before_it_had_a_first_loss() -> None:
    assert described(Promotion()) == "Promotion(factor=8, keep=0.5, min_epochs=1)"
    by_loss = described(Promotion(first_loss="loss"))
    assert by_loss == "Promotion(factor=8, first_loss='loss', keep=0.5, min_epochs=1)"


def test_promotion_stops_each_trial_at_each_rung_once() -> None:
    study = optuna.create_study(direction="maximize", pruner=Promotion(factor=3, keep=1 / 3))
    trial = study.ask()
    stops = []
    for epoch in range(1, 10):
        trial.report(0.5, step=epoch)
        if trial.should_prune():
            stops.append(epoch)
            trial.set_user_attr("reopened", epoch)
            assert not trial.should_prune()
    assert stops == [1, 3, 9]
    promotion = Promotion(min_epochs=2, factor=3, keep=1 / 3)
    assert [promotion.next_stop(after, 10) for after in (0, 2, 3, 6, 9)] == [2, 6, 6, 10, 10]
    assert [promotion.places(n) for n in (1, 2, 3, 8)] == [1, 1, 1, 2]
