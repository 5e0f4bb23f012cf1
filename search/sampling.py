"""Samplers whose draws for a trial do not depend on what happened to the process.

A search that is killed between two suggestions and goes on in another process has to draw what it
would have drawn. Optuna's samplers draw from one generator from trial to trial, so the draws of a
trial depend on all draws of that process before it. `Repeatable` gives every trial, and every
parameter that is drawn by itself, a sampler of its own, seeded by the study's seed, the trial's
number and the parameter's name.
"""

import heapq
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.seeds import derive_seed
from search.trials import FINISHED

SamplerFactory = Callable[[int], BaseSampler]

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


class Repeatable(BaseSampler):
    """Sample each trial with a sampler of its own, made by `factory` from a derived seed.

    `factory` must make samplers that keep nothing from trial to trial but caches, as TPE's, the
    Gaussian process's and the random one do; NSGA's and CMA-ES's keep their state in the database.
    """

    def __init__(self, factory: SamplerFactory, seed: int) -> None:
        self._factory = factory
        self._seed = seed
        self._caching = factory(seed)  # never draws: it keeps the search space between trials

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._caching.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sampler = self._factory(derive_seed(self._seed, "sampler", trial.number))
        return sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._factory(derive_seed(self._seed, "sampler", trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)
