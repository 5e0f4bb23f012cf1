"""Savings of pruning: the epochs that were not run, and their estimated time."""

from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean
from typing import Self

from optuna.trial import TrialState

from search.database.snapshot import Overview
from search.study.trial_attributes import DIVERGED


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Totals over the trials of a study that this service finished."""

    epochs_run: int
    epochs_possible: int
    """Epochs if no trial had been stopped."""
    epochs_saved: int
    """Epochs that pruned trials did not run."""
    seconds_run: float
    seconds_saved: float
    """Time of `epochs_saved`, at the mean epoch time of each trial. Diverged trials are excluded:
    none of their epochs was worth running."""
    pruned: int
    """Number of trials that the pruner stopped."""
    diverged: int
    """Number of trials that stopped because a loss was not finite; PRUNED in Optuna."""

    @classmethod
    def of(cls, overview: Overview) -> Self:
        """Compute the savings of a study."""
        epochs, finished = overview.n_epochs, overview.ended_here
        diverged = [trial for trial in finished if DIVERGED in trial.user_attrs]
        pruned = [
            trial
            for trial in finished
            if trial.state == TrialState.PRUNED and DIVERGED not in trial.user_attrs
        ]
        missing = {trial.number: epochs - len(overview.of(trial)) for trial in pruned}
        return cls(
            epochs_run=sum(len(overview.of(trial)) for trial in finished),
            epochs_possible=len(finished) * epochs,
            epochs_saved=sum(missing.values()),
            seconds_run=sum(epoch.seconds for trial in finished for epoch in overview.of(trial)),
            seconds_saved=sum(
                missing[trial.number] * fmean(epoch.seconds for epoch in ran)
                for trial in pruned
                if (ran := overview.of(trial))
            ),
            pruned=len(pruned),
            diverged=len(diverged),
        )

    @property
    def saved_text(self) -> str:
        """The epochs that pruning saved, and their estimated time."""
        epochs = f"{self.epochs_saved} epoch{'s' if self.epochs_saved != 1 else ''}"
        return f"{epochs}, about {timedelta(seconds=round(self.seconds_saved))}"

    def __str__(self) -> str:
        share = f" ({self.epochs_run / self.epochs_possible:.0%})" if self.epochs_possible else ""
        return f"{self.epochs_run} of {self.epochs_possible} possible{share}"
