"""Callbacks: a user's code that a worker calls after each epoch and each trial.

They do not affect the metrics, and are not part of the study's definition: workers of one study may
have different ones. `search.trackers` has callbacks for experiment trackers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from search.errors import UserError
from search.study.metrics import Direction, Epoch
from search.study.space import Value

State = Literal["complete", "pruned", "failed"]
METHODS = ("after_epoch", "after_trial")
"""The methods of a callback, of which it needs one."""


@dataclass(frozen=True, kw_only=True)
class TrialInfo:
    """What a callback is told of a trial."""

    study: str
    """The study's name in the database."""
    study_key: str
    """16 hexadecimal digits, which no other study has, in any database."""
    number: int
    name: str | None
    """Of a fixed trial: the variant's name, or for a re-run such as `trial 12 repeat 0`. None for
    other trials."""
    params: Mapping[str, Value]
    """The choices by name."""
    seed: int
    """All random draws of its training follow from it."""
    metric: str
    """The study's metric."""
    direction: Direction

    @property
    def key(self) -> str:
        """Identifies the trial among those of all databases, and stays the same when it resumes."""
        return f"{self.study_key}-{self.number}"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    state: State
    """A pruned trial can go on later, and then ends again."""
    value: float | None
    """The metric after the last epoch; None for a failed trial, and if there was no epoch."""
    reason: str
    """Why it was pruned or failed, in one line; empty for a completed trial."""
    last: Epoch | None
    """The last epoch; None if there was none."""


class Callback:
    """A callback that does nothing, to be subclassed.

    `after_epoch` and `after_trial` are called by the worker that trains the trial, which waits for
    them; the workers of a study are separate processes. They are not called within a transaction or
    a lock. An exception in them is logged as a warning, and the search goes on.
    """

    def setup(self) -> None:
        """Called before anything is trained, once or more in each process of a search.

        Raises:
            UserError: the callback cannot be used; the search ends with this message.
        """

    def teardown(self) -> None:
        """Called at the end of each process of a search that is not killed, as often as `setup`.

        A trial that was stopped, lost or canceled has had no `after_trial`.
        """

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        """Called after an epoch was recorded, at most once for each epoch.

        It is not called if the worker is killed between the two.
        """

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        """Called after a trial was ended in the database, each time if it goes on and ends again.

        It is not called if the worker is killed between the two.
        """


def check_callback(callback: object) -> None:
    """Check that an object has a method of a callback.

    Raises:
        UserError: it is a class, or has none.
    """
    if isinstance(callback, type):
        raise UserError(
            f"callbacks: {callback.__name__} is a class; give an object, {callback.__name__}(…)"
        )
    if not any(callable(getattr(callback, name, None)) for name in METHODS):
        raise UserError(
            f"callbacks: {callback!r} has neither {' nor '.join(METHODS)}; a callback has one or "
            "both, as search.study.Callback does"
        )
