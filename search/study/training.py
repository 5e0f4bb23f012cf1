"""What a study trains: the interfaces between the service and a training.

A training is anything with `fit`, `state_dict` and `load_state_dict`. The service runs it epoch by
epoch, records what it yields, and stops, resumes and replays it.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Protocol, Self, cast, runtime_checkable

from typing_extensions import TypeVar

from search.study.definition import described
from search.study.metrics import Metrics
from search.study.seeds import derive_seed
from search.study.space import Params

C = TypeVar("C", default=Any)


@dataclass(frozen=True, kw_only=True)
class Run(Generic[C]):
    """One training: its choices, and everything else that it needs to know."""

    choices: C
    seed: int
    """All random draws of the training follow from it."""
    epochs: int
    """Number of epochs of a trial that is not pruned."""
    metric: str
    """The study's metric, which every epoch must have."""
    is_detailed: bool
    """Whether to measure what takes extra time, such as train metrics: for variants and re-runs,
    and with --measure-train."""
    device: str
    """Where to train, as in PyTorch: `cpu`, `cuda:1`."""
    threads: int
    """Number of CPU threads to use."""
    data: Path
    """The folder of --data."""
    after_batch: Callable[[int], None]
    """To call after each batch with the number of batches trained in the epoch, or 0 during
    evaluation. It stops the training when a user asks for it; without these calls, a training stops
    at the end of an epoch."""

    def seed_for(self, *what: str | int) -> int:
        """Return the seed for a purpose, from 0 to 2**32 - 1, such as `seed_for("order", epoch)`.

        The generators of `random`, NumPy and PyTorch are seeded before each epoch anyway.
        """
        return derive_seed(self.seed, *what)


class Training(Protocol):
    """A training in progress."""

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        """Train from epoch `after` + 1 to the last, and yield each epoch's metrics.

        If `after` is above 0, `load_state_dict` has loaded the state after that epoch.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """Return all state from which `fit` resumes, copied or not.

        It may hold tensors, numbers, text, bytes, and dicts, lists and tuples of them.
        """

    def load_state_dict(self, state: Any, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class About:
    """What the file of a trial's weights says of the trial."""

    study: str
    trial: int
    """The trial's number in the study."""
    variant: str | None
    params: Params
    metrics: Metrics
    """Those of the last epoch."""


@runtime_checkable
class Exportable(Protocol):
    """A training that makes the file that is kept of a good trial, instead of its state."""

    def export(self, about: About) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process trains the trials of a study."""

    device: str
    data: Path
    """The folder of --data."""
    metric: str
    """The study's metric."""
    say: Callable[[str], None]
    """Called with lines of text for the user, such as on a download."""


class Session(Protocol[C]):
    """What a process has loaded once for all trainings of a study."""

    @property
    def digest(self) -> str | None:
        """Identifies the data: a worker with other data cannot join the study. None if unknown."""

    @property
    def precision(self) -> str | None:
        """The numeric precision of the trainings, such as `float32`: a worker with another cannot
        join the study. None if unknown."""

    def start(self, run: Run[C], /) -> Training:
        """Return a new training, before its first epoch."""


class Trainer(ABC, Generic[C]):
    """How a study trains: a frozen dataclass with all settings that affect the metrics.

    Its fields are part of the study's definition.
    """

    held_out = "data"
    """What is held out of the training data for validation, in words."""
    examples = "examples"
    """What metrics are measured on, in words."""
    suffix = ".state"
    """Ending of the names of weights files."""
    metrics: Collection[str] | None = None
    """The metrics that a study can optimize; None if they are not known before the training."""

    @property
    def uses_torch(self) -> bool:
        """Whether the process must set PyTorch up."""
        return True

    @property
    def source(self) -> Callable[..., Any] | None:
        """The user's function to name in errors."""
        return None

    @abstractmethod
    def open(self, place: Place) -> Session[C]:
        """Load what all trainings share, such as the data.

        Raises:
            UserError: it is not available.
        """

    def settings(self) -> Mapping[str, object]:
        """Return the settings on which all workers must agree, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(cast(Any, self))}
        return {
            name: value if isinstance(value, str | int | float | None) else described(value)
            for name, value in values.items()
        }

    def in_precision(self, precision: str) -> Self:
        """Return the trainer with the precision of a definition, if it can choose one."""
        return self

    def data_text(self, metric: str) -> str:
        """Return what it trains on as text for pages, such as `digits, all 1438 images`."""
        return ""

    def n_examples(self, metric: str) -> int | None:
        """Return how many examples an accuracy is a share of; None if that is unknown, or if the
        metric is no accuracy."""
        return None

    def incomparable(self, dataset: str | None, metric: str) -> list[str]:
        """Return why metrics published for `dataset` cannot be compared with a trial's."""
        return []


@dataclass(frozen=True, kw_only=True)
class FunctionTrainer(Trainer[C]):
    """Trains with a function of the run, such as a class of trainings; it needs no session."""

    train: Callable[[Run[C]], Training]

    @property
    def uses_torch(self) -> bool:
        return "torch" in sys.modules

    @property
    def source(self) -> Callable[..., Any]:
        return self.train

    def open(self, place: Place) -> Session[C]:
        return _NoSession(self.train)


@dataclass(frozen=True)
class _NoSession(Generic[C]):
    start: Callable[[Run[C]], Training]
    digest: None = None
    precision: None = None
