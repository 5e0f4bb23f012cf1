"""The budget of a study: how much is trained before a search ends, and what ends it earlier."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from search.study.metrics import number


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Finished trials, epochs, or both: then the search ends as soon as one of them is spent.

    A search ends earlier once a completed trial is as good as `target`, or once `patience` trials
    were trained and finished after the best one completed, without canceled ones.
    """

    trials: int | None = None
    """Number of completed and pruned trials, including the variants; None for no limit."""
    epochs: int | None = None
    """Number of recorded epochs of all trials; None for no limit."""
    target: float | None = None
    """A value of the study's metric; None for none."""
    patience: int | None = None
    """A number of trials; None for no limit."""

    @property
    def is_limited(self) -> bool:
        """Whether it ends a search whatever the trials are like."""
        return self.trials is not None or self.epochs is not None

    def changed(self, given: Mapping[str, Any]) -> Self:
        """Return it with the fields that are given; trials and epochs replace each other."""
        if {"trials", "epochs"} & given.keys():
            given = {"trials": None, "epochs": None, **given}
        return replace(self, **given)

    @property
    def settings(self) -> Mapping[str, int | float | None]:
        """The fields of a study that hold it."""
        return {
            "trials": self.trials,
            "epochs_budget": self.epochs,
            "target": self.target,
            "patience": self.patience,
        }

    def is_spent(self, *, trials: int, epochs: int) -> bool:
        """Return whether so many finished trials, or so many epochs, spend the budget."""
        return (self.trials is not None and trials >= self.trials) or (
            self.epochs is not None and epochs >= self.epochs
        )

    def share(self, *, trials: int, epochs: int) -> float:
        """Return the share of the budget that is spent, from 0 to 1."""
        shares = [0.0]
        if self.trials is not None:
            shares.append(trials / self.trials)
        if self.epochs is not None:
            shares.append(epochs / self.epochs)
        return min(max(shares), 1.0)

    def text(self, *, trials: int, epochs: int) -> str:
        """Return what is spent as text, such as `12 of 60 trials`."""
        parts = []
        if self.trials is not None:
            parts.append(f"{trials} of {self.trials} trials")
        if self.epochs is not None:
            parts.append(f"{epochs} of {self.epochs} epochs")
        return ", ".join(parts)

    @property
    def ends_early_with(self) -> str:
        """What ends a search before the budget is spent, as text; empty if nothing does."""
        parts = []
        if self.target is not None:
            parts.append(f"a trial that reaches {number(self.target)}")
        if self.patience is not None:
            parts.append(f"{self.patience} trials without a better one")
        return " or ".join(parts)
