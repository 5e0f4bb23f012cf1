"""What makes the samplers of a study: TPE, or any sampler of Optuna's that takes a seed.

A worker makes one for each trial; see `search.worker.sampling`.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

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
from search.study.choices import Ranges, check_params

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
        return TPESampler(
            seed=seed,
            n_startup_trials=self.startup_trials,
            multivariate=True,
            constant_liar=True,
        )


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
        case PartialFixedSampler():
            (fixed,) = (value for value in vars(sampler).values() if isinstance(value, dict))
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
