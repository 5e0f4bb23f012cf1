import optuna

from search.choices import FIELDS, RANGES, Choices
from search.sampling import TPE, Repeatable

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
