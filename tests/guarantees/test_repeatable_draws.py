"""Every draw follows from the study's seed, the trial's number and the epoch: the same trial gives
the same figures bit for bit.

Samplers by themselves are tested in `tests/study/test_samplers.py`, and the order of the images and
the weights in `tests/vision/test_training.py`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial

from search.database.database import Database
from search.database.optuna_internals import study_id, trial_id
from search.study.study import Study
from search.worker.replay import train_again
from tests.support.commands import QUICK, Command
from tests.support.databases import overview
from tests.support.process import Start


def test_each_trial_has_a_seed_that_follows_the_studys(study: Study) -> None:
    trials = [create_trial(value=0.5) for _ in range(200)]
    for number, trial in enumerate(trials):
        trial.number = number
    seeds = [study.trial_seed(trial) for trial in trials]
    assert len(set(seeds)) == 200
    assert seeds == [dataclasses.replace(study).trial_seed(trial) for trial in trials]
    assert dataclasses.replace(study, seed=1).trial_seed(trials[0]) not in seeds


def test_trials_trained_again_give_the_stored_figures_bit_for_bit(
    search: Command, tmp_path: Path
) -> None:
    assert search("run", *QUICK, "--trials", 18, "--timeout", 6).returncode == 0
    assert search("run", *QUICK, "--trials", 18).returncode == 0  # goes on with a begun trial
    before = overview(tmp_path, "digits")
    pruned = next(trial for trial in before.trials if trial.state.name == "PRUNED")
    for number in (1, pruned.number, "best"):
        done = search("reproduce", "--study", "digits", "--trial", number)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "with 1 thread, as it was trained." in done.stdout
        assert "are the same, bit for bit" in done.stdout
    other = search("reproduce", "--study", "digits", "--threads", 2, "--trial", 1)
    assert (
        "Replaying trial 1 with 2 threads, as you ask by --threads; it was trained with 1 thread."
        in other.stdout
    )
    assert "threads: 1 then, 2 now" in other.stdout
    after = overview(tmp_path, "digits")
    assert [trial.user_attrs for trial in after.trials] == [t.user_attrs for t in before.trials]


def test_the_values_that_were_stored_first_are_trained(
    start: Start, study: Study, url: str
) -> None:
    class Late(optuna.samplers.RandomSampler):
        """Draws a learning rate when another worker has just written one."""

        def sample_independent(
            self,
            study: optuna.Study,
            trial: FrozenTrial,
            param_name: str,
            param_distribution: optuna.distributions.BaseDistribution,
        ) -> Any:
            if param_name == "lr":
                other = Database(url)
                other.optuna.get_all_trials(study_id(study))
                other.optuna.set_trial_param(trial_id(trial), "lr", 0.0123, param_distribution)
                other.close()
            return super().sample_independent(study, trial, param_name, param_distribution)

    study = dataclasses.replace(study, variants={}, sampler=Late)
    process = start(study)
    process.run(process.claim())
    (trial,) = process.trials
    assert trial.params["lr"] == 0.0123
    recorded = process.database.epochs(process.ref.key, trial.number)
    machine = process.machine
    again = train_again(study, trial, recorded, machine, print, lambda batches: None)
    assert again.is_same
