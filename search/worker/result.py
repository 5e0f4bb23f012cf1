"""How a trial ended, and which of its user attributes say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from optuna.trial import TrialState

from search.study.epoch import Epoch
from search.study.pruners import Cut
from search.study.trial_attributes import CUTOFF, DIVERGED, REASON, RUNG, SECONDS, TRACEBACK


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    """Of a completed trial: the accuracy that ranks it; of a pruned one: the last accuracy."""
    reason: str = ""
    """In one line why it was pruned or failed; empty for a completed one."""
    rung: int | None = None
    """Of one that was pruned for its accuracy: the epoch."""
    cutoff: float | None = None
    """Of one that was pruned on a rung: the accuracy that it would have needed."""
    diverged: int | None = None
    """Of a trial whose loss was not finite: the epoch."""
    traceback: str = ""
    """Of a failed one: that of the error."""
    weights_sha256: str | None = None
    """Of a completed one: the sum of its weights; None if they were not written."""
    seconds_per_epoch: float | None = None
    """Mean wall time of its epochs; None if it has none."""

    @classmethod
    def complete(cls, last: Epoch, *, weights_sha256: str | None) -> Self:
        return cls(
            state=TrialState.COMPLETE,
            value=last.selection_accuracy,
            weights_sha256=weights_sha256,
        )

    @classmethod
    def pruned(cls, cut: Cut) -> Self:
        return cls(state=TrialState.PRUNED, reason=str(cut), rung=cut.epoch, cutoff=cut.cutoff)

    @property
    def attributes(self) -> Mapping[str, str | int | float]:
        """The user attributes that tell of it; those that say nothing are left out."""
        told = {
            REASON: self.reason or None,
            TRACEBACK: self.traceback or None,
            DIVERGED: self.diverged,
            RUNG: self.rung,
            CUTOFF: self.cutoff,
            SECONDS: self.seconds_per_epoch,
        }
        return {name: value for name, value in told.items() if value is not None}
