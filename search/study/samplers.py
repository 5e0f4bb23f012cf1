"""What makes the samplers of a study: TPE, or any sampler of Optuna's that takes a seed.

A worker makes one for each trial; see `search.worker.repeatable_sampler`.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GridSampler,
    PartialFixedSampler,
    TPESampler,
)

from search.errors import UserError
from search.study.space import Space

SamplerFactory = Callable[..., BaseSampler]
"""Creates a sampler from a seed from 0 to 2**32 - 1; see `made`."""

N_GOOD_TRIALS = 25
"""Maximum number of trials that TPE models as good, by its default `gamma`."""


@dataclass(frozen=True, kw_only=True)
class TPE:
    """Factory of multivariate TPE samplers.

    The constant liar keeps concurrent workers from sampling similar values.
    """

    startup_trials: int = 16
    """Number of random trials before the model is used, including the variants."""
    history: int = 1000
    """Maximum number of finished trials in the model: the best, and an even selection of the rest.
    `python -m tests.benchmarks.sampling` measures the time saved and the effect on the results."""

    def __post_init__(self) -> None:
        lowest = max(self.startup_trials, 2 * N_GOOD_TRIALS)
        if self.history < lowest:
            raise ValueError(f"history must be at least {lowest}, not {self.history}")

    def __call__(self, seed: int, *, has_branches: bool = False) -> BaseSampler:
        """With `has_branches`, the parameters of each class of a branch are modeled jointly, from
        the trials that took it."""
        return TPESampler(
            seed=seed,
            n_startup_trials=self.startup_trials,
            multivariate=True,
            group=has_branches,
            constant_liar=True,
        )


def made(factory: SamplerFactory, seed: int, *, has_branches: bool = False) -> BaseSampler:
    """Create a sampler, passing `seed` by keyword if `factory` has an argument of that name.

    `has_branches` says whether the study's space does, which only `TPE` needs to know.

    In most of Optuna's classes, the seed is keyword-only or not the first argument.
    """
    try:
        is_named = "seed" in inspect.signature(factory).parameters
    except ValueError:  # some functions written in C
        is_named = False
    with warnings.catch_warnings():
        # The warning was shown when the study was loaded; do not repeat it for every trial.
        warnings.simplefilter("ignore", ExperimentalWarning)
        if isinstance(factory, TPE):
            return factory(seed, has_branches=has_branches)
        return factory(seed=seed) if is_named else factory(seed)


def parts(sampler: BaseSampler) -> Iterator[BaseSampler]:
    """Yield a sampler and the samplers that it delegates to."""
    yield sampler
    for value in vars(sampler).values():
        if isinstance(value, BaseSampler):
            yield from parts(value)


def check_sampler(factory: object, space: Space[Any]) -> None:
    """Check that `factory` creates a sampler that can sample `space` repeatably.

    Raises:
        UserError: it does not.
    """
    way_out = "give TPE(), RandomSampler, or a function such as lambda seed: TPESampler(seed=seed)"
    if isinstance(factory, BaseSampler):
        name = type(factory).__name__
        raise UserError(
            f"sampler: a {name} object would be shared by all trials, but each trial needs a "
            f"sampler with its own seed; give sampler={name}, or lambda seed: "
            f"{name}(seed=seed, ...)"
        )
    if isinstance(factory, type) and issubclass(factory, GridSampler):
        raise _without_grid()
    if not callable(factory):
        raise UserError(f"sampler: {factory!r} does not create a sampler; {way_out}")
    name = getattr(factory, "__name__", type(factory).__name__)
    try:
        sampler = made(factory, 0)
    except Exception as error:  # the factory is user input: any error is possible
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"sampler: {name} does not create a sampler from a seed ({cause}); {way_out}"
        ) from error
    if not isinstance(sampler, BaseSampler):
        raise UserError(f"sampler: {name} creates {sampler!r}, not a sampler; {way_out}")
    for part in parts(sampler):
        _check_part(part, space)


def _check_part(sampler: BaseSampler, space: Space[Any]) -> None:
    match sampler:
        case GridSampler():
            raise _without_grid()
        case CmaEsSampler() if find_spec("cmaes") is None:
            raise UserError("sampler: CmaEsSampler needs a package: pip install cmaes")
        case PartialFixedSampler():
            (fixed,) = (value for value in vars(sampler).values() if isinstance(value, dict))
            try:
                space.check(fixed)
            except UserError as error:
                raise UserError(f"sampler: PartialFixedSampler: {error}") from None
        case BruteForceSampler():
            for name, distribution in space.ranges.items():
                if isinstance(distribution, FloatDistribution) and distribution.step is None:
                    raise UserError(
                        "sampler: BruteForceSampler needs ranges with a finite number of values, "
                        f"but {name} is continuous; give a CategoricalDistribution, or a "
                        "FloatDistribution with step"
                    )


def _without_grid() -> UserError:
    return UserError(
        "sampler: GridSampler uses its own grid instead of the study's ranges; give "
        "BruteForceSampler, and ranges that form the grid"
    )
