"""Which trials stop early.

Optuna's `SuccessiveHalvingPruner` notes in the trial that a rung was passed before it decides, so
a trial that is killed between the two is never asked again and escapes. `SuccessiveHalving` makes
the same decisions from the reported values alone: asked again, it answers the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial


@dataclass(frozen=True, kw_only=True)
class SuccessiveHalving(BasePruner):
    """Asynchronous successive halving over one bracket of rungs.

    A trial is compared on the epochs `min_epochs * factor**k` with all trials that reported there
    before, and goes on if it is among the best `1 / factor` of them; while fewer than `factor` did,
    if it is the best. Source: Li et al., A System for Massively Parallel Hyperparameter Tuning,
    https://arxiv.org/abs/1810.05934.
    """

    min_epochs: int = 1
    """The first rung, in epochs."""
    factor: int = 4
    """From rung to rung so many times the epochs, for one of so many trials."""

    def __post_init__(self) -> None:
        if self.min_epochs < 1 or self.factor < 2:
            raise ValueError(
                f"min_epochs is at least 1, factor 2, not {self.min_epochs} and {self.factor}"
            )

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        cutoff = self.cutoff(study, trial)
        if cutoff is None:
            return False
        value = trial.intermediate_values[max(trial.intermediate_values)]
        return value < cutoff if _maximized(study) else value > cutoff

    def cutoff(self, study: Study, trial: FrozenTrial) -> float | None:
        """Return the value that `trial` needs at its last reported epoch to go on.

        None if it has reported nothing, or if that epoch is not a rung.
        """
        epoch = trial.last_step
        if epoch is None or not self._is_rung(epoch):
            return None
        values = [
            other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False)
            if epoch in other.intermediate_values and other.number != trial.number
        ]
        values.append(trial.intermediate_values[epoch])
        values.sort(reverse=_maximized(study))
        return values[max(len(values) // self.factor, 1) - 1]

    def _is_rung(self, epoch: int) -> bool:
        rung = self.min_epochs
        while rung < epoch:
            rung *= self.factor
        return rung == epoch


class Sparing(BasePruner):
    """Ask `pruner` about every trial, so that it can note it, and spare what `spared` names."""

    def __init__(self, pruner: BasePruner, spared: Callable[[FrozenTrial], bool]) -> None:
        self._pruner = pruner
        self._spared = spared

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self._pruner.prune(study, trial) and not self._spared(trial)


def reason(pruner: BasePruner, study: Study, trial: FrozenTrial) -> str:
    """Return in one line why `pruner` stops `trial` at its last reported epoch."""
    epoch = trial.last_step
    if epoch is None or not isinstance(pruner, SuccessiveHalving):
        return f"pruned by {type(pruner).__name__} at epoch {epoch}"
    cutoff = pruner.cutoff(study, trial)
    return f"{trial.intermediate_values[epoch]:.4f} at epoch {epoch}, cut-off {cutoff:.4f}"


def _maximized(study: Study) -> bool:
    return study.direction == StudyDirection.MAXIMIZE
