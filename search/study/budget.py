"""The budget of a study: how much is trained before a search ends."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Finished trials, epochs, or both: then the search ends as soon as one of them is spent."""

    trials: int | None = None
    """Number of completed and pruned trials, including the variants; None for no limit."""
    epochs: int | None = None
    """Number of recorded epochs of all trials; None for no limit."""

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
