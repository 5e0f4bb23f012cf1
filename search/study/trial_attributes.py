"""What a trial's user attributes say: which fixed one it is, and how it ended.

A fixed trial is a variant of its study, or a re-run of a variant or of another study's trial.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from search.study.choices import Value

VARIANT = "variant"
"""User attribute of a trial: the name of the variant that it is."""
ORIGIN = "trial"
"""User attribute of a re-run: the number of the trial that it runs again, in its own study."""
REPEAT = "repeat"
"""User attribute of a re-run: which one it is, from 0."""
SEED = "seed"
"""User attribute of a re-run: the seed of all draws of its training."""
FIXING = frozenset({VARIANT, ORIGIN, REPEAT, SEED})
"""What makes a fixed trial the one that it is."""
ENQUEUED = "enqueued"
"""User attribute of a trial: the values that a user gave it by `--enqueue`."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count against the budget."""
REASON = "reason"
"""User attribute of a trial: in one line why it was pruned or failed."""
RUNG = "rung"
"""User attribute of a trial that was pruned for its accuracy: the epoch at which."""
CUTOFF = "cutoff"
"""User attribute of a trial that was pruned on a rung: the accuracy that it would have needed."""
DIVERGED = "diverged"
"""User attribute of a pruned trial: the epoch in which a loss of it was not finite."""
SECONDS = "seconds_per_epoch"
"""User attribute of a trial that has ended: the mean wall time of its epochs."""
TRACEBACK = "traceback"
"""User attribute of a failed trial: the end of its error's traceback."""
ENVIRONMENTS = "environments"
"""User attribute of a trial: where it was trained, the last place last; several if it was taken
over elsewhere."""
MEASURED_TRAIN = "measured_train"
"""User attribute of a trial: true if it was begun with --measure-train."""
CRASH = "crash"
"""User attribute of a trial that stopped a worker: the end of that error's traceback."""


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    VARIANT: str, ORIGIN: int, REPEAT: int, SEED: int, ENQUEUED: dict, REASON: str, RUNG: int,
    CUTOFF: (int, float), DIVERGED: int, SECONDS: (int, float), TRACEBACK: str, ENVIRONMENTS: list,
    MEASURED_TRAIN: bool, CRASH: str,
}  # fmt: skip


def readable(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial without those attributes of ours that are of another type.

    Anyone can set attributes with Optuna and its dashboard.
    """
    if all(is_readable(name, value) for name, value in trial.user_attrs.items()):
        return trial
    found = copy.copy(trial)
    found.user_attrs = {k: value for k, value in trial.user_attrs.items() if is_readable(k, value)}
    return found


def is_readable(name: str, value: object) -> bool:
    """Return whether the attribute is not ours, or of the type that ours has."""
    if name == ENVIRONMENTS and isinstance(value, list):
        return all(
            isinstance(one, dict)
            and {"device", "threads", "precision", "cuda"} <= one.keys()
            and isinstance(one["threads"], int | None)
            for one in value
        )
    return name not in _TYPES or isinstance(value, _TYPES[name])


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A trial that is enqueued in its study once, with all its values."""

    params: Mapping[str, Value]
    attributes: Mapping[str, Value]
    """User attributes, of `FIXING`, from which its name follows."""

    @property
    def name(self) -> str:
        name = name_of(self.attributes)
        assert name is not None, "made from a variant's name or a trial's number"
        return name


def fixed_name(trial: FrozenTrial) -> str | None:
    """Return the name under which a fixed trial is in its study once: a variant or a re-run.

    None for the others, which are sampled at least in part. Fixed trials come first, are never
    pruned, and have their train figures measured.
    """
    return name_of(trial.user_attrs)


def origin_name(attributes: Mapping[str, Value]) -> str | None:
    """Return the name of the variant or trial that a fixed trial's attributes are of."""
    if ORIGIN in attributes:
        return f"trial {attributes[ORIGIN]}"
    name = attributes.get(VARIANT)
    return None if name is None else str(name)


def name_of(attributes: Mapping[str, Value]) -> str | None:
    """Return the name that a trial's attributes, of `FIXING`, give it; None if it is not fixed."""
    name = origin_name(attributes)
    if name is None:
        return None
    return name if REPEAT not in attributes else f"{name} repeat {attributes[REPEAT]}"


def is_first_run(attributes: Mapping[str, Value]) -> bool:
    """Return whether a trial's attributes make it a variant, and no re-run of one but the first."""
    return VARIANT in attributes and attributes.get(REPEAT, 0) == 0


def rank(accuracy: float, number: int) -> tuple[float, int]:
    """Return what sorts a completed trial before those that it is better than."""
    return -accuracy, number


def is_fixed(trial: FrozenTrial) -> bool:
    return fixed_name(trial) is not None


def measures_train(trial: FrozenTrial) -> bool:
    """Return whether each epoch of the trial has its train loss and accuracy measured."""
    return is_fixed(trial) or MEASURED_TRAIN in trial.user_attrs


def label(trial: FrozenTrial) -> str:
    """Return the trial's number, with its name if it is a fixed one."""
    kind = fixed_name(trial) or ("enqueued" if ENQUEUED in trial.user_attrs else "")
    return f"{trial.number} {kind}".strip()
