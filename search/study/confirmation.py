"""The confirmation of a search: re-runs of its best trials with fresh seeds.

The best metric of a search is biased, since it is selected from many, and so is the mean of the
re-runs that choose among the best. So the winner is run again with seeds that had no part in the
choice.
"""

from dataclasses import dataclass, replace

from search.errors import UserError
from search.study.budget import Budget

MIN_SEEDS = 3
"""Minimum number of seeds before a trial may be left out of further ones, and with which one can be
the best unless all have fewer."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best `trials` are run with `seeds` fresh seeds each; the winner alone with `unused` more.

    Re-run k has the same seed for all trials.
    """

    trials: int = 3
    seeds: int = MIN_SEEDS
    unused: int = 5

    def __post_init__(self) -> None:
        if self.trials < 1 or self.seeds < MIN_SEEDS or self.unused < 1:
            raise UserError(
                f"confirm: at least 1 trial, {MIN_SEEDS} seeds and 1 unused seed are needed, not "
                f"{self.trials}, {self.seeds} and {self.unused}"
            )

    @property
    def runs(self) -> int:
        """The number of re-runs."""
        return self.trials * self.seeds + self.unused

    def left_for_search(self, budget: Budget, epochs: int) -> Budget:
        """Return what a `budget` has besides the re-runs, of so many `epochs` each.

        A budget in trials counts no re-runs.

        Raises:
            UserError: the re-runs would use it up.
        """
        if budget.epochs is None:
            return budget
        left = budget.epochs - self.runs * epochs
        if left < 1:
            raise UserError(
                f"--epochs-budget {budget.epochs}: the confirmation takes {self.runs * epochs} of "
                "it, and nothing is left for the search; give a larger one, or --no-confirm"
            )
        return replace(budget, epochs=left)
