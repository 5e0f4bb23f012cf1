"""Metrics: what an epoch measures, and which of it a study optimizes.

A metric's name may begin with the split that it is measured on: `test_accuracy`, `valid_auc`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Metrics = Mapping[str, float]
"""Values by name; any names."""
Direction = Literal["maximize", "minimize"]

SPLITS = ("train", "batch", "validation", "valid", "val", "test")
"""The splits that a metric's name may begin with. `batch` is the training images in train mode,
while the weights change."""


def split(name: str) -> tuple[str, str]:
    """Return the split and the quantity of a metric: `("test", "accuracy")` for `test_accuracy`,
    `("", "auc")` for `auc`."""
    first, _, rest = name.partition("_")
    return (first, rest) if first in SPLITS and rest else ("", name)


def words(name: str) -> str:
    """Return the name of a metric as text for display, such as `test accuracy`."""
    return name.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The metrics of one epoch of a trial."""

    number: int
    """1-based."""
    metrics: Metrics
    """All finite, in the order in which the training yielded them."""
    seconds: float
    """Wall time of the epoch, evaluation included."""

    def __str__(self) -> str:
        values = " ".join(f"{name}: {value:.5f}" for name, value in self.metrics.items())
        return f"EPOCH: {self.number} {values}"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric to optimize or to compare, and its direction."""

    metric: str
    direction: Direction
    diverged_as: float | None = None
    """What a diverged run counts as; None for the worst of all runs."""

    @property
    def words(self) -> str:
        """The metric as text, such as `test accuracy`."""
        return words(self.metric)

    @property
    def quantity(self) -> str:
        """The metric without its split, such as `accuracy`."""
        return words(split(self.metric)[1])

    def value(self, epoch: Epoch) -> float:
        return epoch.metrics[self.metric]

    def score(self, value: float) -> float:
        """Return the value such that higher is better; the score of a score is the value."""
        return value if self.direction == "maximize" else -value


def number(value: float | None, *, beside: float | None = None) -> str:
    """Return a metric's value as text with four decimals, or four digits if it is tiny or huge;
    empty for None.

    Whether it is tiny is decided by `beside`, if given: the mean that a standard deviation is
    shown with.
    """
    if value is None:
        return ""
    size = abs(value if beside is None else beside)
    return f"{value:.4f}" if size == 0 or 1e-3 <= size < 1e5 else f"{value:.4g}"
