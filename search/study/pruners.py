"""Pruners: they decide which trials stop early, and which of these go on later.

Optuna's `SuccessiveHalvingPruner` records in the trial that it reached a rung, and then decides. A
trial that is killed in between is not checked again and escapes pruning. `SuccessiveHalving` makes
the same decisions from the reported values alone, so repeating a check gives the same answer.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.errors import UserError
from search.study.metrics import Metrics, number, words
from search.study.trial_attributes import REOPENED, readable


@dataclass(frozen=True, kw_only=True)
class PruneReason:
    """Why a trial is pruned."""

    epoch: int | None
    """None if the trial has reported no value."""
    value: float | None
    """The metric that the pruner compares."""
    cutoff: float | None = None
    """The value that the trial needed; None if the pruner does not report one."""
    metric: str | None = None
    """The metric that the pruner compares; None for the study's."""
    pruner: str

    def of(self, metrics: Metrics, metric: str) -> Self:
        """Return the reason with the name and the value of what was compared, given the metrics of
        its epoch and the study's metric, which stands in for one that they lack: a trial may have
        been begun under another pruner."""
        compared = self.metric or metric
        if compared not in metrics:
            compared = metric
        return replace(self, metric=compared, value=metrics[compared])

    def __str__(self) -> str:
        what = "" if self.metric is None else f"{words(self.metric)} "
        value = f"{what}{number(self.value)} at epoch {self.epoch}"
        if self.pruner == Promotion.__name__:
            return f"{value}, where it waits to be promoted"
        if self.cutoff is None:
            return f"{value}, pruned by {self.pruner}"
        return f"{value}, cut-off {number(self.cutoff)}"


def check_pruner(pruner: object) -> None:
    """Check that `pruner` and the pruners that it delegates to are pruners.

    Raises:
        UserError: one of them is not.
    """
    if isinstance(pruner, type) and issubclass(pruner, BasePruner):
        name = pruner.__name__
        raise UserError(f"pruner: {name} is a class; give an instance, such as {name}()")
    if not isinstance(pruner, BasePruner):
        raise UserError(
            f"pruner: {pruner!r} is not a pruner; give SuccessiveHalving(), an Optuna pruner such "
            "as MedianPruner(), or NopPruner() to prune nothing"
        )
    for value in vars(pruner).values():
        if isinstance(value, Promotion):
            raise UserError(
                f"pruner: {type(pruner).__name__} cannot decide for Promotion(), which asks for no "
                "decision at a rung; give Promotion() by itself, or SuccessiveHalving()"
            )
        if isinstance(value, type | BasePruner):
            check_pruner(value)


class Rivals(Protocol):
    """Values that the other trials of a study reported after one epoch."""

    def standing(self, value: float) -> tuple[int, int]:
        """Return the number of other trials, and how many of them are better than `value`."""

    def best(self, place: int) -> float:
        """Return the value at rank `place`; 1 is the best."""


class Reported:
    """Rivals in any Optuna study, found by iterating over all of its trials."""

    def __init__(self, study: Study, trial: FrozenTrial, epoch: int) -> None:
        self._sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        values = [
            self._sign * other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False)
            if epoch in other.intermediate_values and other.number != trial.number
        ]
        self._values = sorted(values, reverse=True)

    def standing(self, value: float) -> tuple[int, int]:
        return len(self._values), sum(other > self._sign * value for other in self._values)

    def best(self, place: int) -> float:
        return self._sign * self._values[place - 1]


T = TypeVar("T")


class Rung(Protocol[T]):
    """The competing trials that have reached a rung."""

    def __len__(self) -> int: ...

    def best(self, n: int) -> Sequence[T]:
        """Return the `n` trials with the best values there, best first; ties go to the earlier."""

    def is_waiting(self, trial: T) -> bool:
        """Return whether the trial was stopped at this rung."""


FindRivals = Callable[[Study, FrozenTrial, int], Rivals]
"""Returns the rivals of a trial after an epoch."""


@dataclass(frozen=True, kw_only=True)
class Halving(BasePruner):
    """The rungs of asynchronous successive halving: the epochs `min_epochs * factor**k`.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning,
    https://arxiv.org/abs/1810.05934.
    """

    min_epochs: int = 1
    """The first rung, in epochs."""
    factor: int = 8
    """Each rung has this many times the epochs of the last one."""
    keep: float = 0.5
    """The share of the trials that go on from a rung; the source has `1 / factor`, which loses good
    trials that begin slowly, see `tests.benchmarks.replay`."""

    def __post_init__(self) -> None:
        if self.min_epochs < 1 or self.factor < 2:
            raise ValueError(
                "min_epochs must be at least 1 and factor at least 2, "
                f"not {self.min_epochs} and {self.factor}"
            )
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must be a share between 0 and 1, not {self.keep}")

    def rungs(self, epochs: int) -> list[int]:
        """Return the rungs up to `epochs`."""
        found = [self.min_epochs]
        while found[-1] * self.factor <= epochs:
            found.append(found[-1] * self.factor)
        return [rung for rung in found if rung <= epochs]

    def places(self, n: int) -> int:
        """Return how many of `n` trials that have reached a rung go on: one at least, so that a
        small study has a complete trial."""
        return max(math.floor(n * self.keep + 1e-9), 1)  # a third of 3 is 1


@dataclass(frozen=True, kw_only=True)
class Promotion(Halving):
    """Each trial stops at each rung, and goes on once it is in the best share there.

    A worker first continues the best trial that has earned it, on the highest rung, and samples a
    new trial only if there is none. So an early decision is never final: a trial that was passed
    over goes on when later ones turn out worse, even after the end of the search, under a larger
    budget. `search.database.rungs` finds the trials; in a study that other programs run, none is
    promoted.
    """

    first_loss: str | None = None
    """A metric that is compared on the first rung instead of the study's; lower is better. The mean
    training loss of an epoch depends far less on the seed than a test metric of a network that is
    hardly trained. None for the study's metric."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.first_loss is None or (isinstance(self.first_loss, str) and self.first_loss)):
            raise ValueError(f"first_loss must be the name of a metric, not {self.first_loss!r}")

    def loss_at(self, epoch: int) -> str | None:
        """Return the metric that is compared at the rung `epoch` if it is not the study's."""
        return self.first_loss if epoch == self.min_epochs else None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        epoch = trial.last_step
        if epoch is None or epoch not in self.rungs(epoch):
            return False
        return bool(epoch > readable(trial).user_attrs.get(REOPENED, 0))

    def promotable(self, rungs: Mapping[int, Rung[T]]) -> T | None:
        """Return the trial to go on with: the best that has earned it, on the highest rung."""
        for epoch in sorted(rungs, reverse=True):
            rung = rungs[epoch]
            for trial in rung.best(self.places(len(rung))):
                if rung.is_waiting(trial):
                    return trial
        return None

    def next_stop(self, after: int, epochs: int) -> int:
        """Return the first rung after the epoch `after`, or `epochs` if there is none."""
        return next((rung for rung in self.rungs(epochs) if rung > after), epochs)


@dataclass(frozen=True, kw_only=True)
class SuccessiveHalving(Halving):
    """At each rung, a trial is compared with all trials that have reported there, and stopped for
    good unless it is in the best share of them, or the best of a few."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self.cut(study, trial) is not None

    def cut(
        self, study: Study, trial: FrozenTrial, find: FindRivals = Reported
    ) -> PruneReason | None:
        """Return why `trial` is pruned at its last reported epoch; None if it continues."""
        epoch = trial.last_step
        if epoch is None or epoch not in self.rungs(epoch):
            return None
        value = trial.intermediate_values[epoch]
        rivals = find(study, trial, epoch)
        n_rivals, n_better = rivals.standing(value)
        places = self.places(n_rivals + 1)
        if n_better < places:
            return None
        return PruneReason(
            epoch=epoch, value=value, cutoff=rivals.best(places), pruner=type(self).__name__
        )


class ExemptingPruner(BasePruner):
    """Call `pruner` for every trial, so that it can record it, but never prune `spared` ones."""

    def __init__(
        self,
        pruner: BasePruner,
        spared: Callable[[FrozenTrial], bool],
        find: FindRivals = Reported,
    ) -> None:
        self._pruner = copy.deepcopy(pruner)  # Optuna's pruners resolve `auto` and store it
        self._spared = spared
        self._find = find

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self.cut(study, trial) is not None

    def cut(self, study: Study, trial: FrozenTrial) -> PruneReason | None:
        """Return why `trial` is pruned at its last reported epoch; None if it continues."""
        found = self._asked(study, trial)
        return None if found is None or self._spared(trial) else found

    def _asked(self, study: Study, trial: FrozenTrial) -> PruneReason | None:
        if isinstance(self._pruner, SuccessiveHalving):
            return self._pruner.cut(study, trial, self._find)
        if not self._pruner.prune(study, trial):
            return None
        epoch = trial.last_step
        metric = None
        if isinstance(self._pruner, Promotion) and epoch is not None:
            metric = self._pruner.loss_at(epoch)
        value = None if epoch is None else trial.intermediate_values[epoch]
        return PruneReason(
            epoch=epoch, value=value, metric=metric, pruner=type(self._pruner).__name__
        )
