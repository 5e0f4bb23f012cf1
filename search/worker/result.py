"""How a trial ended, and the user attributes that store it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from optuna.trial import TrialState

from search.study.pruners import PruneReason
from search.study.trial_attributes import (
    CUTOFF,
    DIVERGED,
    PAUSED,
    REASON,
    RUNG,
    SECONDS,
    TRACEBACK,
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    """The metric that ranks a completed trial; the last one of a pruned trial."""
    reason: str = ""
    """Why it was pruned or failed, in one line; empty for a completed trial."""
    rung: int | None = None
    """The epoch at which it was pruned for its metric."""
    paused: int | None = None
    """The epoch at which the budget was spent."""
    cutoff: float | None = None
    """The metric that it would have needed on the rung."""
    diverged: int | None = None
    """The epoch in which a metric was not finite."""
    traceback: str = ""
    """The traceback of a failed trial."""
    weights_sha256: str | None = None
    """SHA-256 of a completed trial's weights; None if they were not written."""
    epochs: int = 0
    """The number of its recorded epochs."""
    seconds_per_epoch: float | None = None
    """Mean wall time of its epochs in seconds; None without epochs."""

    @classmethod
    def pruned(cls, cut: PruneReason) -> Self:
        return cls(state=TrialState.PRUNED, reason=str(cut), rung=cut.epoch, cutoff=cut.cutoff)

    @classmethod
    def cut_short(cls, epoch: int) -> Self:
        """Return the end of a trial for which the budget has no epoch after `epoch`."""
        reason = f"the budget was spent at epoch {epoch}; a larger one goes on with it"
        return cls(state=TrialState.PRUNED, reason=reason, paused=epoch)

    @property
    def attributes(self) -> Mapping[str, str | int | float]:
        """The user attributes that store the outcome; empty ones are left out."""
        told = {
            REASON: self.reason or None,
            TRACEBACK: self.traceback or None,
            DIVERGED: self.diverged,
            RUNG: self.rung,
            PAUSED: self.paused,
            CUTOFF: self.cutoff,
            SECONDS: self.seconds_per_epoch,
        }
        return {name: value for name, value in told.items() if value is not None}
