import math
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats.qmc import Halton

from search.database.optuna_internals import trial_id
from search.errors import UserError
from search.study.metrics import Direction
from search.study.samplers import TPE, SamplerFactory, check_sampler
from search.study.space import Ranges, Space
from search.study.study import Study
from search.worker.repeatable_sampler import RepeatableSampler, thinned
from studies.cifar import Choices

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

TRIALS = 24
SPACE = Space(Choices)


def _search(
    interrupted_after: dict[int, int],
    factory: SamplerFactory = TPE(startup_trials=8),  # noqa: B008  # a frozen value
    space: Space[Choices] = SPACE,
    seed: int = 5,
) -> list[dict[str, object]]:
    """Run 24 trials; each trial in the mapping is left after so many suggestions, as a killed
    process leaves it, and taken over with new objects. Return all parameters."""
    storage = optuna.storages.InMemoryStorage()

    def join() -> optuna.Study:
        return optuna.create_study(
            study_name="search",
            storage=storage,
            direction="maximize",
            sampler=RepeatableSampler(factory, seed=seed),
            load_if_exists=True,
        )

    study = join()
    for number in range(TRIALS):
        trial = study.ask()
        if number in interrupted_after:
            for name in space.names[: interrupted_after[number]]:
                _suggest(trial, name, space.ranges[name])
            study = join()
            trial = optuna.Trial(study, trial_id(trial))
        choices = space.suggest(trial)
        trial.report(_goodness(choices), step=1)
        study.tell(trial, _goodness(choices))
    return [dict(trial.params) for trial in study.trials]


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    else:
        assert isinstance(distribution, optuna.distributions.FloatDistribution)
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _goodness(choices: Choices) -> float:
    return -abs(choices.lr - 0.01) + 0.1 * (choices.optimizer == "Adam")


def test_an_interrupted_search_samples_what_it_would_have() -> None:
    undisturbed = _search({})
    # Two while parameters are drawn alone at random, two while TPE draws them together.
    assert _search({2: 1, 5: 8, 12: 4, 20: 7}) == undisturbed


@dataclass(frozen=True, kw_only=True)
class _SGD:
    lr: Annotated[float, FloatDistribution(1e-3, 1e-1, log=True)]
    momentum: Annotated[float, FloatDistribution(0.0, 0.99)]


@dataclass(frozen=True, kw_only=True)
class _Adam:
    lr: Annotated[float, FloatDistribution(1e-4, 1e-2, log=True)]
    eps: Annotated[float, FloatDistribution(1e-9, 1e-6, log=True)]


@dataclass(frozen=True, kw_only=True)
class _Branches:
    width: Annotated[int, IntDistribution(16, 64, step=8)]
    optimizer: _SGD | _Adam


@pytest.mark.parametrize("factory", [TPE(startup_trials=8), RandomSampler])
def test_a_search_with_branches_samples_what_it_would_have(factory: SamplerFactory) -> None:
    """Which parameters a trial has depends on what is sampled first."""

    def search(interrupted_after: dict[int, int]) -> list[dict[str, object]]:
        storage, space = optuna.storages.InMemoryStorage(), Space(_Branches)

        def join() -> optuna.Study:
            return optuna.create_study(
                study_name="search",
                storage=storage,
                direction="minimize",
                sampler=RepeatableSampler(factory, seed=5, has_branches=space.has_branches),
                load_if_exists=True,
            )

        study = join()
        for number in range(TRIALS):
            trial = study.ask()
            if number in interrupted_after:
                stopping = _Stopping(study, trial_id(trial), interrupted_after[number])
                with pytest.raises(InterruptedError):
                    space.suggest(stopping)
                study = join()
                trial = optuna.Trial(study, trial_id(trial))
            choices = space.suggest(trial)
            loss = abs(math.log10(choices.optimizer.lr) + 2) + choices.width / 64
            trial.report(loss, step=1)
            study.tell(trial, loss)
        return [dict(trial.params) for trial in study.trials]

    undisturbed = search({})
    assert search({2: 1, 5: 2, 12: 3, 16: 1, 20: 2}) == undisturbed
    taken = {params["optimizer"] for params in undisturbed}
    assert taken == {"_SGD", "_Adam"}
    assert len({params["width"] for params in undisturbed}) > 3


class _Stopping(optuna.Trial):
    """Ends the process after so many suggestions."""

    def __init__(self, study: optuna.Study, trial_id: int, left: int) -> None:
        super().__init__(study, trial_id)
        self.left = left

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if self.left == 0:
            raise InterruptedError
        self.left -= 1
        return super()._suggest(name, distribution)


A_GRID: Ranges = {"lr": CategoricalDistribution((1e-3, 1e-2))}


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize(
    ("factory", "ranges"),
    [
        (RandomSampler, {}),
        (TPESampler, {}),
        (BruteForceSampler, A_GRID),
        (QMCSampler, {}),
        (partial(QMCSampler, qmc_type="halton", scramble=True), {}),
        (partial(NSGAIISampler, population_size=4), {}),
        (partial(NSGAIIISampler, population_size=4), {}),
        (lambda n: PartialFixedSampler({"optimizer": "SGD"}, QMCSampler(seed=n)), {}),
    ],
)
def test_samplers_of_optuna_are_repeatable_after_a_kill_with_any_seed(
    factory: SamplerFactory, ranges: Ranges, seed: int
) -> None:
    space = Space(Choices, ranges)
    check_sampler(factory, space)
    undisturbed = _search({}, factory, space, seed)
    assert _search({0: 1, 5: 8, 8: 1, 12: 1, 16: 4}, factory, space, seed) == undisturbed
    assert len({tuple(params.items()) for params in undisturbed}) > TRIALS // 2


@pytest.mark.slow
def test_the_gaussian_process_is_repeatable_after_a_kill() -> None:
    """Optuna's counts what a killed process has drawn for a trial as another trial that runs."""
    factory = partial(GPSampler, n_startup_trials=TRIALS - 2)
    assert _search({TRIALS - 1: 2}, factory) == _search({}, factory)


def test_a_sequence_takes_the_point_of_the_trials_number() -> None:
    drawn = _search({}, partial(QMCSampler, qmc_type="halton"))
    points = Halton(len(SPACE.names), scramble=False).random(TRIALS)
    column = SPACE.names.index("lr")
    for number in range(1, TRIALS):
        assert math.log10(drawn[number]["lr"]) == pytest.approx(  # type: ignore[arg-type]
            -4 + 3 * points[number][column]
        )


def _no_seed() -> RandomSampler:
    return RandomSampler()


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (RandomSampler(), "a RandomSampler object would be shared .*; give sampler=RandomSampler"),
        (GPSampler(), "a GPSampler object would be shared"),
        ("tpe", "'tpe' does not create a sampler; give TPE()"),
        (None, "None does not create a sampler"),
        (TPE, r"TPE does not create a sampler from a seed \(TypeError: .*\); give TPE()"),
        (_no_seed, "_no_seed does not create a sampler"),
        (PartialFixedSampler, "PartialFixedSampler does not create a sampler .*base_sampler"),
        (BaseSampler, "BaseSampler does not create a sampler"),
        (lambda seed: seed, "<lambda> creates 0, not a sampler"),
        (GridSampler, "GridSampler uses its own grid .* give BruteForceSampler"),
        (lambda seed: GridSampler({"lr": [0.1]}, seed), "GridSampler uses its own grid"),
        (BruteForceSampler, "finite number of values, but lr is continuous; give a Categorical"),
        (
            lambda seed: GPSampler(independent_sampler=BruteForceSampler(seed)),
            "but lr is continuous",
        ),
        (
            lambda seed: PartialFixedSampler({"lr": 0.5}, RandomSampler(seed)),
            "PartialFixedSampler: lr must be a number from 0.0001 to 0.1, not 0.5",
        ),
    ],
)
def test_a_sampler_that_is_not_repeatable_is_refused_by_name(
    study: Study, factory: Any, complaint: str
) -> None:
    with pytest.raises(UserError, match=rf"^sampler: .*{complaint}") as error:
        replace(study, sampler=factory)
    assert "\n" not in str(error.value)


def test_a_sampler_whose_package_is_missing_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.samplers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="CmaEsSampler needs a package: pip install cmaes"):
        replace(study, sampler=CmaEsSampler)


def test_a_study_knows_a_sampler_with_other_settings_from_its_own(study: Study) -> None:
    def described(population: int) -> object:
        factory = partial(NSGAIISampler, population_size=population)
        return replace(study, sampler=factory).definition("")["sampler"]

    assert described(8) == "NSGAIISampler(population_size=8)"
    assert described(8) != described(9)


def test_trials_differ_and_so_do_seeds() -> None:
    drawn = _search({})
    assert len({tuple(params.items()) for params in drawn}) == TRIALS


def test_tpe_learns_from_the_trials_before() -> None:
    late = _search({})[-8:]
    assert sum(params["optimizer"] == "Adam" for params in late) >= 4  # 1.3 of 8 by chance


class _Seeing(RandomSampler):
    """Notes the trials that there are to learn from."""

    seen: ClassVar[list[list[int]]] = []

    def sample_relative(self, study: optuna.Study, *others: Any) -> dict[str, Any]:
        self.seen.append([trial.number for trial in study.get_trials(deepcopy=False)])
        return super().sample_relative(study, *others)


def test_nothing_is_learned_from_what_somebody_else_told() -> None:
    study = optuna.create_study(direction="maximize", sampler=RepeatableSampler(_Seeing, seed=0))
    for reported, told in ((0.5, 0.5), (None, 0.99), (0.5, 0.99)):
        trial = study.ask()
        if reported is not None:
            trial.report(reported, step=1)
        study.tell(trial, told)
    study.add_trial(create_trial(value=math.inf))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.4}))
    study.ask().suggest_float("lr", 0.1, 1.0)
    assert _Seeing.seen[-1] == [0, 4]


def _ended(number: int, accuracy: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    trial = create_trial(state=state, value=accuracy, intermediate_values={1: accuracy})
    trial.number = number
    return trial


@pytest.mark.parametrize("sign", [1, -1])
def test_a_thinned_history_has_the_best_trials_and_the_others_evenly(sign: int) -> None:
    rng = random.Random(3)
    trials = [_ended(number, rng.random()) for number in range(1000)]
    best = sorted(trials, key=lambda trial: sign * (trial.value or 0.0))[-25:]
    running = create_trial(state=TrialState.RUNNING)
    running.number = 1000
    left = thinned([*trials, running], 125, sign)
    assert [trial.number for trial in left] == sorted({trial.number for trial in left})
    assert len(left) == 126
    assert left[-1] is running
    assert all(trial in left for trial in best)
    others = [trial.number for trial in left[:-1] if trial not in best]
    assert [sum(n // 200 == part for n in others) for part in range(5)] == pytest.approx(
        [20] * 5, abs=2
    )


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_of_pruned_trials_the_best_are_those_that_tpe_takes_for_good(
    direction: Direction, sign: int
) -> None:
    rng = random.Random(4)
    trials = [_ended(number, rng.random(), TrialState.PRUNED) for number in range(200)]
    # Completed: better than those, though their value is the worst.
    trials += [_ended(200 + number, 0.0 if sign == 1 else 1.0) for number in range(20)]
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    good, _ = _split_trials(study, study.get_trials(), 25)
    left = {trial.number for trial in thinned(study.get_trials(), 60, sign)}
    assert {trial.number for trial in good} <= left
    assert len(left) == 60


def test_a_history_that_fits_is_not_thinned() -> None:
    trials = [_ended(number, 0.5) for number in range(60)]
    assert thinned(trials, 60) is trials
    with pytest.raises(ValueError, match="history must be at least 50, not 49"):
        TPE(history=49)
