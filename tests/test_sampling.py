import random

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.choices import FIELDS, RANGES, Choices
from search.sampling import TPE, Repeatable, thinned

TRIALS = 24


def _search(interrupted_after: dict[int, int]) -> list[dict[str, object]]:
    """Run 24 trials; each trial in the mapping is left after so many suggestions, as a killed
    process leaves it, and taken over with new objects. Return all parameters."""
    storage = optuna.storages.get_storage(optuna.storages.InMemoryStorage())

    def join() -> optuna.Study:
        return optuna.create_study(
            study_name="search",
            storage=storage,
            direction="maximize",
            sampler=Repeatable(TPE(startup_trials=8), seed=5),
            load_if_exists=True,
        )

    study = join()
    for number in range(TRIALS):
        trial = study.ask()
        if number in interrupted_after:
            for name in FIELDS[: interrupted_after[number]]:
                _suggest(trial, name)
            study = join()
            trial = optuna.Trial(study, trial._trial_id)
        choices = Choices.suggest(trial, RANGES)
        study.tell(trial, _goodness(choices))
    return [dict(trial.params) for trial in study.trials]


def _suggest(trial: optuna.Trial, name: str) -> None:
    distribution = RANGES[name]
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    else:
        assert isinstance(distribution, optuna.distributions.FloatDistribution)
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _goodness(choices: Choices) -> float:
    return -abs(choices.lr - 0.01) + 0.1 * (choices.optimizer == "Adam")


def test_a_search_interrupted_between_suggestions_samples_what_it_would_have() -> None:
    undisturbed = _search({})
    # Two while parameters are drawn alone at random, two while TPE draws them together.
    assert _search({2: 1, 5: 8, 12: 4, 20: 7}) == undisturbed


def test_trials_differ_and_so_do_seeds() -> None:
    drawn = _search({})
    assert len({tuple(params.items()) for params in drawn}) == TRIALS


def test_tpe_learns_from_the_trials_before() -> None:
    late = _search({})[-8:]
    assert sum(params["optimizer"] == "Adam" for params in late) >= 4  # 1.3 of 8 by chance


def _ended(number: int, accuracy: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    trial = create_trial(state=state, value=accuracy, intermediate_values={1: accuracy})
    trial.number = number
    return trial


def test_a_thinned_history_has_the_best_trials_and_the_others_evenly() -> None:
    rng = random.Random(3)
    trials = [_ended(number, rng.random()) for number in range(1000)]
    best = sorted(trials, key=lambda trial: trial.value or 0.0)[-25:]
    running = create_trial(state=TrialState.RUNNING)
    running.number = 1000
    left = thinned([*trials, running], 125)
    assert [trial.number for trial in left] == sorted({trial.number for trial in left})
    assert len(left) == 126
    assert left[-1] is running
    assert all(trial in left for trial in best)
    others = [trial.number for trial in left[:-1] if trial not in best]
    assert [sum(n // 200 == part for n in others) for part in range(5)] == pytest.approx(
        [20] * 5, abs=2
    )


def test_of_pruned_trials_the_best_are_those_that_tpe_takes_for_good() -> None:
    rng = random.Random(4)
    trials = [_ended(number, rng.random(), TrialState.PRUNED) for number in range(200)]
    trials += [_ended(200 + number, 0.0) for number in range(20)]  # completed: better than those
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    good, _ = _split_trials(study, study.get_trials(), 25)
    left = {trial.number for trial in thinned(study.get_trials(), 60)}
    assert {trial.number for trial in good} <= left
    assert len(left) == 60


def test_a_history_that_fits_is_not_thinned() -> None:
    trials = [_ended(number, 0.5) for number in range(60)]
    assert thinned(trials, 60) is trials
    with pytest.raises(ValueError, match="history is 50 or more, not 49"):
        TPE(history=49)
