"""What pruning saved: epochs that were not run, and the time they would have taken."""

from dataclasses import dataclass
from statistics import fmean
from typing import Self

from optuna.trial import TrialState

from search.database.snapshot import Overview
from search.study.trial_attributes import DIVERGED


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Over the finished trials of a study, but for those that somebody else ended."""

    epochs_run: int
    epochs_possible: int
    """Had every finished trial run to its end."""
    epochs_saved: int
    """That pruned trials did not run."""
    seconds_run: float
    seconds_saved: float
    """For each pruned trial, those epochs at its own mean epoch time. Trials that diverged are not
    counted: no epoch of theirs was worth running."""
    pruned: int
    """Trials that the pruner stopped."""
    diverged: int
    """Trials that ended because a loss was not finite; pruned ones to Optuna."""

    @classmethod
    def of(cls, overview: Overview, epochs: int) -> Self:
        """Sum up the finished trials of a study whose trials have `epochs` epochs."""
        ended = overview.ended_here
        diverged = [trial for trial in ended if DIVERGED in trial.user_attrs]
        pruned = [
            trial
            for trial in ended
            if trial.state == TrialState.PRUNED and DIVERGED not in trial.user_attrs
        ]
        missing = {trial.number: epochs - len(overview.of(trial)) for trial in pruned}
        return cls(
            epochs_run=sum(len(overview.of(trial)) for trial in ended),
            epochs_possible=len(ended) * epochs,
            epochs_saved=sum(missing.values()),
            seconds_run=sum(epoch.seconds for trial in ended for epoch in overview.of(trial)),
            seconds_saved=sum(
                missing[trial.number] * fmean(epoch.seconds for epoch in ran)
                for trial in pruned
                if (ran := overview.of(trial))
            ),
            pruned=len(pruned),
            diverged=len(diverged),
        )

    def __str__(self) -> str:
        share = f" ({self.epochs_run / self.epochs_possible:.0%})" if self.epochs_possible else ""
        return f"{self.epochs_run} run of {self.epochs_possible} possible{share}"
