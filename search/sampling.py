"""Samplers whose draws for a trial do not depend on what happened to the process.

A search that is killed between two suggestions and goes on in another process has to draw what it
would have drawn. Optuna's samplers draw from one generator from trial to trial, so the draws of a
trial depend on all draws of that process before it. `Repeatable` gives every trial, and every
parameter that is drawn by itself, a sampler of its own, seeded by the study's seed, the trial's
number and the parameter's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from search.seeds import derive_seed

SamplerFactory = Callable[[int], BaseSampler]


@dataclass(frozen=True, kw_only=True)
class TPE:
    """Make multivariate TPE samplers with a constant liar, which keeps workers apart."""

    startup_trials: int = 16
    """Trials drawn at random before the model is used; the fixed variants count among them."""

    def __call__(self, seed: int) -> BaseSampler:
        return TPESampler(
            seed=seed,
            n_startup_trials=self.startup_trials,
            multivariate=True,
            constant_liar=True,
        )


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
