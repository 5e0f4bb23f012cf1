"""Draws that depend on the trial alone, and not on what happened to the process.

A search that is killed between two suggestions and resumed by another process must draw what it
would have drawn. Optuna's samplers draw from one generator for all trials, so that the draws of a
trial depend on all draws of that process before it. `RepeatableSampler` makes a new sampler for
each trial, and for each parameter that is drawn by itself, seeded by the study's seed, the trial's
number and the parameter's name.
"""

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler, QMCSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.database.optuna_internals import StudyView, pin_sequence
from search.study.samplers import N_GOOD_TRIALS, TPE, SamplerFactory, made, parts
from search.study.seeds import derive_seed
from search.study.trial_attributes import FINISHED


class RepeatableSampler(BaseSampler):
    """Sample each trial with a new sampler, which `factory` makes from a derived seed.

    A sampler's state in memory is lost from trial to trial; its state in the database must be the
    same if it is written again.
    """

    def __init__(
        self,
        factory: SamplerFactory,
        seed: int,
        *,
        has_branches: bool = False,
        experience: Callable[[list[FrozenTrial]], list[FrozenTrial]] | None = None,
    ) -> None:
        """`experience` returns the trials to learn from; None for those of the study."""
        self._factory = factory
        self._seed = seed
        self._has_branches = has_branches
        self._experience = experience
        self._caching = self._made(0)  # never draws: it keeps the search space between trials

    def _made(self, seed: int) -> BaseSampler:
        return made(self._factory, seed, has_branches=self._has_branches)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._experience is not None:
            others = self._others(study, trial)
            return self._made(0).infer_relative_search_space(others, trial)
        return self._caching.infer_relative_search_space(study, trial)

    def _others(self, study: Study, trial: FrozenTrial) -> Study:
        """Return the study as a sampler is to see it."""
        others = StudyView(study, partial(_others, number=trial.number))
        return others if self._experience is None else StudyView(others, self._experience)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = self._others(study, trial)
        if isinstance(self._factory, TPE):
            sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
            others = StudyView(others, partial(thinned, history=self._factory.history, sign=sign))
        seed = derive_seed(self._seed, "sampler", trial.number)
        for part in parts(self._made(seed)):
            if isinstance(part, BaseGASampler):
                # The first trial of a generation draws its parents, and the others read them. The
                # first reads them too, so that it draws the same if it is sampled again.
                part.get_parent_population(others, part.get_trial_generation(others, trial))
        sampler = self._made(seed)
        if self._has_branches:  # TPE then keeps the spaces of the branches in the sampler
            sampler.infer_relative_search_space(others, trial)
        for part in parts(sampler):
            if isinstance(part, QMCSampler):
                pin_sequence(part, seed=derive_seed(self._seed, "sampler"), place=trial.number)
        return sampler.sample_relative(others, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seed = derive_seed(self._seed, "sampler", trial.number, param_name)
        sampler = self._made(seed)
        return sampler.sample_independent(
            self._others(study, trial), trial, param_name, param_distribution
        )


def _others(trials: list[FrozenTrial], number: int) -> list[FrozenTrial]:
    """Leave out the trial that is sampled, and those that somebody else completed.

    Another process may have begun the trial, and what that one stored must not change what the
    samplers suggest. A value that was not measured here is nothing to learn from.
    """
    return [
        trial
        for trial in trials
        if trial.number != number and (trial.state != TrialState.COMPLETE or _is_as_reported(trial))
    ]


def _is_as_reported(trial: FrozenTrial) -> bool:
    """Return whether a completed trial has the value of its last epoch, as workers report it."""
    last = trial.last_step
    return last is not None and trial.values == [trial.intermediate_values[last]]


def thinned(trials: list[FrozenTrial], history: int, sign: int = 1) -> list[FrozenTrial]:
    """Leave out finished trials until `history` are left.

    The `N_GOOD_TRIALS` best ones stay, which TPE separates from the rest, and of the rest an
    even choice over the course of the study. Unfinished trials stay, and so does the order. With
    `sign` 1 higher values are better, with -1 lower ones.
    """
    finished = [trial for trial in trials if trial.state in FINISHED]
    if len(finished) <= history:
        return trials
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    ranked = complete if len(complete) >= N_GOOD_TRIALS else finished
    best = {
        trial.number
        for trial in heapq.nlargest(N_GOOD_TRIALS, ranked, key=partial(_merit, sign=sign))
    }
    others = [trial.number for trial in finished if trial.number not in best]
    n_others = history - len(best)
    stay = best | {others[place * len(others) // n_others] for place in range(n_others)}
    return [trial for trial in trials if trial.state not in FINISHED or trial.number in stay]


def _merit(trial: FrozenTrial, sign: int) -> tuple[bool, int, float]:
    """Return what TPE ranks by: completed trials first, pruned ones by their last epoch."""
    if trial.state == TrialState.COMPLETE:
        return True, 0, sign * trial.values[0]
    step = trial.last_step
    if step is None:
        return False, -1, 0.0
    return False, step, sign * trial.intermediate_values[step]
