"""A loss that is not finite ends its trial within the epoch, pruned, with the reason."""

import dataclasses
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from search.study.study import Study
from search.study.trial_attributes import REASON
from search.worker.replay import train_again
from tests.support.commands import Command
from tests.support.process import Start


def test_a_diverging_trial_is_pruned_in_its_epoch_with_its_reason(
    start: Start, study: Study
) -> None:
    ranges = {"lr": optuna.distributions.FloatDistribution(1e18, 1e20, log=True)}
    process = start(dataclasses.replace(study, variants={}, ranges=ranges, trials=3))
    process.work()
    reasons = [trial.user_attrs[REASON] for trial in process.trials]
    diverged = [reason for reason in reasons if "is nan" in reason or "is inf" in reason]
    assert diverged
    assert all("in epoch 1" in reason for reason in diverged)
    assert {trial.state for trial in process.trials} == {TrialState.PRUNED}


def test_a_diverged_trial_is_replayed_with_what_was_measured(start: Start, study: Study) -> None:
    # A single batch, so that the first loss after a step is train_loss.
    ranges = {"lr": FloatDistribution(1e29, 1e30, log=True)}
    study = study.changed({"variants": {}, "ranges": ranges, "images": 32})
    process = start(study, measure_train=True)
    process.run(process.claim())
    (trial,) = process.trials
    assert trial.user_attrs[REASON] == "train_loss is nan in epoch 1"
    said: list[str] = []
    machine = process.machine
    again = train_again(study, trial, [], machine, said.append, lambda batches: None)
    assert again.is_same
    assert said == ["[0] train_loss is nan in epoch 1"]


def test_a_study_whose_first_variant_diverges_starts_all_the_same(
    search: Command, wild_study: Path
) -> None:
    done = search("run", "--study", wild_study)
    assert (done.returncode, done.stderr) == (0, "")
    assert "On CPU" in done.stdout
    # No markup of the terminal's, which would be malformed.
    assert "[0 wild[/i]] PRUNED after 0 of 8 epochs: batch_loss is nan in epoch 1" in done.stdout
    assert "│ wild[/i] │" in done.stdout


def test_a_trial_that_diverged_diverges_again(search: Command, wild_study: Path) -> None:
    assert search("run", "--study", wild_study, "--threads", 1).returncode == 0
    done = search("reproduce", "--study", wild_study, "--threads", 1, "--trial", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[0] batch_loss is nan in epoch 1" in done.stdout
    assert "All metrics are the same, bit for bit (epochs: 0)" in done.stdout
