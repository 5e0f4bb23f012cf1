"""Attributes of a trial: which fixed trial it is, where it was trained, and how it finished.

A fixed trial is a variant of its study, or a re-run of a variant or of another study's trial.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.study.space import Value

VARIANT = "variant"
"""User attribute of a variant's trial: the variant's name."""
ORIGIN = "trial"
"""User attribute of a re-run: the number of the original trial in that trial's study."""
REPEAT = "repeat"
"""User attribute of a re-run: its number, from 0."""
SEED = "seed"
"""User attribute of a re-run: the seed of all random draws of its training."""
FIXED_TRIAL_ATTRIBUTES = frozenset({VARIANT, ORIGIN, REPEAT, SEED})
"""The attributes that identify a fixed trial."""
ENQUEUED = "enqueued"
"""User attribute of a trial: the values that a user gave it by `--enqueue`."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count against the budget."""
REASON = "reason"
"""User attribute of a trial: why it was pruned or failed, in one line."""
RUNG = "rung"
"""User attribute of a trial that was pruned for its metric: the epoch."""
PAUSED = "paused"
"""User attribute of a pruned trial that the budget cut short: its last epoch. It goes on under a
larger budget."""
REOPENED = "reopened"
"""User attribute of a trial that was pruned or paused and goes on: the epoch after which it did so
last."""
AUDITED = "audited"
"""User attribute of a trial that was pruned, and that an audit runs to its end: the epoch at which
it was pruned."""
CANCELED = "canceled"
"""User attribute of a trial that a user has ended for good: true."""
CUTOFF = "cutoff"
"""User attribute of a trial that was pruned on a rung: the value that it needed."""
DIVERGED = "diverged"
"""User attribute of a pruned trial: the epoch in which a metric was not finite."""
SECONDS = "seconds_per_epoch"
"""User attribute of a trial: the mean wall time of its epochs."""
TRACEBACK = "traceback"
"""User attribute of a failed trial: the end of its error's traceback."""
ENVIRONMENTS = "search:environments"
"""System attribute of a trial: see `environments`."""
ENVIRONMENT = ("device", "threads", "precision", "torch", "cuda", "packages", "code")
"""User attributes of a trial, for its readers: entries of the environment in which it was trained
last. Nothing else reads them."""
MEASURED_TRAIN = "measured_train"
"""User attribute of a trial: true if it was started with --measure-train."""
CRASH = "crash"
"""User attribute of a trial that stopped a worker: the end of that error's traceback."""


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    VARIANT: str, ORIGIN: int, REPEAT: int, SEED: int, ENQUEUED: dict, REASON: str, RUNG: int,
    PAUSED: int, REOPENED: int, CANCELED: bool, AUDITED: int, CUTOFF: (int, float), DIVERGED: int,
    SECONDS: (int, float), TRACEBACK: str, MEASURED_TRAIN: bool, CRASH: str,
}  # fmt: skip


def readable(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial without those of this module's attributes that have the wrong type.

    Any program can set attributes with Optuna.
    """
    if all(is_readable(name, value) for name, value in trial.user_attrs.items()):
        return trial
    found = copy.copy(trial)
    found.user_attrs = {k: value for k, value in trial.user_attrs.items() if is_readable(k, value)}
    return found


def is_readable(name: str, value: object) -> bool:
    """Return whether an attribute has the right type, or is not one of this module."""
    return name not in _TYPES or isinstance(value, _TYPES[name])


def environments(trial: FrozenTrial) -> Sequence[Mapping[str, Any]]:
    """Return the environments in which a trial was trained, the latest last: several if another
    worker took the trial over, none if they are not recorded.

    Earlier versions stored them in a user attribute.
    """
    stored = trial.system_attrs.get(ENVIRONMENTS, trial.user_attrs.get("environments"))
    if isinstance(stored, list) and all(map(_is_environment, stored)):
        return stored
    return []


def _is_environment(value: object) -> bool:
    return (
        isinstance(value, dict)
        and {"device", "threads", "precision", "cuda"} <= value.keys()
        and isinstance(value["threads"], int | None)
    )


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A trial with all values given, enqueued in its study once."""

    params: Mapping[str, Value]
    attributes: Mapping[str, Value]
    """The user attributes, of `FIXED_TRIAL_ATTRIBUTES`, that determine its name."""

    @property
    def name(self) -> str:
        name = name_of(self.attributes)
        assert name is not None, "made from a variant's name or a trial's number"
        return name


def fixed_name(trial: FrozenTrial) -> str | None:
    """Return the unique name of a fixed trial in its study; None for other trials.

    Fixed trials are variants and re-runs. They run first and are never pruned. Other trials are at
    least partly sampled.
    """
    return name_of(trial.user_attrs)


def origin_name(attributes: Mapping[str, Value]) -> str | None:
    """Return the name of a fixed trial's variant or original trial; None if it is not fixed."""
    if ORIGIN in attributes:
        return f"trial {attributes[ORIGIN]}"
    name = attributes.get(VARIANT)
    return None if name is None else str(name)


def name_of(attributes: Mapping[str, Value]) -> str | None:
    """Return a fixed trial's name from its attributes; None if it is not fixed."""
    name = origin_name(attributes)
    if name is None:
        return None
    return name if REPEAT not in attributes else f"{name} repeat {attributes[REPEAT]}"


def is_first_run(attributes: Mapping[str, Value]) -> bool:
    """Return whether a trial's attributes make it a variant, and no re-run of one but the first."""
    return VARIANT in attributes and attributes.get(REPEAT, 0) == 0


def rank(score: float, number: int) -> tuple[float, int]:
    """Return a sort key that puts better completed trials first."""
    return -score, number


def is_fixed(trial: FrozenTrial) -> bool:
    return fixed_name(trial) is not None


def measures_train(trial: FrozenTrial) -> bool:
    """Return whether train loss and accuracy are measured after each epoch of the trial.

    They are for variants, whose published figures have them. Nobody looks at those of a sampled
    trial or of its re-runs, and they take a third of the time of an epoch's training.
    """
    return VARIANT in trial.user_attrs or MEASURED_TRAIN in trial.user_attrs


def label(trial: FrozenTrial) -> str:
    """Return the trial's number, followed by its name if it is fixed."""
    kind = fixed_name(trial) or ("enqueued" if ENQUEUED in trial.user_attrs else "")
    return f"{trial.number} {kind}".strip()
