"""Samplers whose draws for a trial do not depend on what happened to the process.

A search that is killed between two suggestions and goes on in another process has to draw what it
would have drawn. Optuna's samplers draw from one generator from trial to trial, so the draws of a
trial depend on all draws of that process before it. `Repeatable` gives every trial, and every
parameter that is drawn by itself, a sampler of its own, seeded by the study's seed, the trial's
number and the parameter's name.
"""

import heapq
import inspect
import warnings
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GridSampler,
    PartialFixedSampler,
    QMCSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from search.errors import UserError
from search.study.choices import Ranges, check_params
from search.study.seeds import derive_seed
from search.study.trial_attributes import FINISHED

SamplerFactory = Callable[..., BaseSampler]
"""Makes a sampler of a seed from 0 to 2**32 - 1; see `made`."""

MODELLED_AS_GOOD = 25
"""So many trials at most are good ones to TPE, by the default of its `gamma`."""


@dataclass(frozen=True, kw_only=True)
class TPE:
    """Make multivariate TPE samplers with a constant liar, which keeps workers apart."""

    startup_trials: int = 16
    """Trials drawn at random before the model is used; the fixed variants count among them."""
    history: int = 1000
    """Ended trials that are modelled at most: the best ones, and an even choice of the others.
    `python -m tests.benchmarks.sampling` shows what that saves and whether it does harm."""

    def __post_init__(self) -> None:
        lowest = max(self.startup_trials, 2 * MODELLED_AS_GOOD)
        if self.history < lowest:
            raise ValueError(f"history is {lowest} or more, not {self.history}")

    def __call__(self, seed: int) -> BaseSampler:
        return _ThinnedTPE(
            history=self.history,
            seed=seed,
            n_startup_trials=self.startup_trials,
            multivariate=True,
            constant_liar=True,
        )


class _ThinnedTPE(TPESampler):
    def __init__(self, *, history: int, **options: Any) -> None:
        super().__init__(**options)
        self._history = history

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(_Thinned(study, self._history), trial, search_space)


class _Thinned(Study):
    """A study with some of its ended trials left out, as Optuna's Hyperband pruner makes one."""

    def __init__(self, study: Study, history: int) -> None:
        self.__dict__.update(vars(study))
        self._left = thinned(study.get_trials(deepcopy=False), history)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._left if states is None or trial.state in states]


def thinned(trials: list[FrozenTrial], history: int) -> list[FrozenTrial]:
    """Leave out ended trials until `history` are left: not the `MODELLED_AS_GOOD` best ones, which
    TPE tells from the others, and of the others an even choice over the course of the study.

    Accuracies: the higher, the better. Trials that have not ended stay, and so does the order.
    """
    ended = [trial for trial in trials if trial.state in FINISHED]
    if len(ended) <= history:
        return trials
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    ranked = complete if len(complete) >= MODELLED_AS_GOOD else ended
    best = {trial.number for trial in heapq.nlargest(MODELLED_AS_GOOD, ranked, key=_merit)}
    others = [trial.number for trial in ended if trial.number not in best]
    n_others = history - len(best)
    stay = best | {others[place * len(others) // n_others] for place in range(n_others)}
    return [trial for trial in trials if trial.state not in FINISHED or trial.number in stay]


def _merit(trial: FrozenTrial) -> tuple[bool, int, float]:
    """Return what TPE ranks by: completed trials first, pruned ones by how far they came."""
    if trial.state == TrialState.COMPLETE:
        return True, 0, trial.values[0]
    step = trial.last_step
    return (False, -1, 0.0) if step is None else (False, step, trial.intermediate_values[step])


class _Measured(Study):
    """A study as the sampling of one of its trials sees it: without that trial, and without those
    that somebody else has completed.

    Another process may have begun the trial, and what that one stored of it must not change what
    the others suggest. A value that was told from outside is nothing to learn from.
    """

    def __init__(self, study: Study, number: int) -> None:
        self.__dict__.update(vars(study))
        self._whole = study
        self._number = number

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = self._whole._get_trials(deepcopy, states, use_cache)
        return [
            trial
            for trial in trials
            if trial.number != self._number
            and (trial.state != TrialState.COMPLETE or _is_as_reported(trial))
        ]


def _is_as_reported(trial: FrozenTrial) -> bool:
    """Return whether a completed trial has the value of its last epoch, as a worker tells it."""
    last = trial.last_step
    return last is not None and trial.values == [trial.intermediate_values[last]]


class Repeatable(BaseSampler):
    """Sample each trial with a sampler of its own, made by `factory` from a derived seed.

    What a sampler keeps in memory is lost from trial to trial; what it keeps in the database must
    be the same if it is written again.
    """

    def __init__(self, factory: SamplerFactory, seed: int) -> None:
        self._factory = factory
        self._seed = seed
        self._caching = made(factory, 0)  # never draws: it keeps the search space between trials

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._caching.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = _Measured(study, trial.number)
        seed = derive_seed(self._seed, "sampler", trial.number)
        for part in parts(made(self._factory, seed)):
            if isinstance(part, BaseGASampler):
                # Drawn by the first trial of a generation, and read by the others; so that the
                # first draws the same if it is sampled again, it reads them too.
                part.get_parent_population(others, part.get_trial_generation(others, trial))
        sampler = made(self._factory, seed)
        self._place(sampler, trial.number)
        return sampler.sample_relative(others, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seed = derive_seed(self._seed, "sampler", trial.number, param_name)
        others = _Measured(study, trial.number)
        sampler = made(self._factory, seed)
        return sampler.sample_independent(others, trial, param_name, param_distribution)

    def _place(self, sampler: BaseSampler, number: int) -> None:
        """Let a quasi-random sequence give the point of a trial's number, of one sequence for all.

        Optuna counts the points in the database, and a trial that is sampled again would take the
        next one.
        """
        for part in parts(sampler):
            if isinstance(part, QMCSampler):
                part._seed = derive_seed(self._seed, "sampler")
                part._find_sample_id = lambda study, search_space: number  # type: ignore[method-assign]


def made(factory: SamplerFactory, seed: int) -> BaseSampler:
    """Return a sampler of `factory`, which is given `seed` by this name if it has such an argument.

    Most of Optuna's classes take the seed by its name alone, or have another argument first.
    """
    try:
        is_named = "seed" in inspect.signature(factory).parameters
    except ValueError:  # of some functions written in C
        is_named = False
    with warnings.catch_warnings():
        # Once is enough, and that is when the study's file is read; this is done for every trial.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return factory(seed=seed) if is_named else factory(seed)


def parts(sampler: BaseSampler) -> Iterator[BaseSampler]:
    """Yield a sampler and those that it hands some parameters on to."""
    yield sampler
    for value in vars(sampler).values():
        if isinstance(value, BaseSampler):
            yield from parts(value)


def check_sampler(factory: object, ranges: Ranges) -> None:
    """Refuse what makes no sampler, or one that cannot sample `ranges` repeatably.

    Raises:
        UserError: naming what it is.
    """
    way_out = "give TPE(), RandomSampler, or a function such as lambda seed: TPESampler(seed=seed)"
    if isinstance(factory, BaseSampler):
        name = type(factory).__name__
        raise UserError(
            f"sampler: a {name} object would draw on from trial to trial, and each trial needs one "
            f"of its own seed; give sampler={name}, or lambda seed: {name}(seed=seed, ...)"
        )
    if isinstance(factory, type) and issubclass(factory, GridSampler):
        raise _without_grid()
    if not callable(factory):
        raise UserError(f"sampler: {factory!r} makes no sampler from a seed; {way_out}")
    name = getattr(factory, "__name__", type(factory).__name__)
    try:
        sampler = made(factory, 0)
    except Exception as error:  # it is a user's input, whatever is wrong with it
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"sampler: {name} makes no sampler from a seed ({cause}); {way_out}"
        ) from error
    if not isinstance(sampler, BaseSampler):
        raise UserError(f"sampler: {name} makes {sampler!r}, which is no sampler; {way_out}")
    for part in parts(sampler):
        _check_part(part, ranges)


def _check_part(sampler: BaseSampler, ranges: Ranges) -> None:
    match sampler:
        case GridSampler():
            raise _without_grid()
        case CmaEsSampler() if find_spec("cmaes") is None:
            raise UserError("sampler: CmaEsSampler needs a package: pip install cmaes")
        case PartialFixedSampler(_fixed_params=fixed):
            try:
                check_params(fixed, ranges)
            except UserError as error:
                raise UserError(f"sampler: PartialFixedSampler: {error}") from None
        case BruteForceSampler():
            for name, distribution in ranges.items():
                if isinstance(distribution, FloatDistribution) and distribution.step is None:
                    raise UserError(
                        f"sampler: BruteForceSampler takes ranges of countable values, and {name} "
                        "has none; give a CategoricalDistribution, or a FloatDistribution with step"
                    )


def _without_grid() -> UserError:
    return UserError(
        "sampler: GridSampler has a grid of its own beside the study's ranges; give "
        "BruteForceSampler, and ranges that are a grid"
    )
