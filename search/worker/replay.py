"""Replay: trains a stored trial again, and compares its metrics with the stored ones bit for bit.

They are equal on the same kind of device, in the same precision, with the same number of threads. A
replay uses those that are stored with the trial, unless the user asks for others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.errors import UserError
from search.study.metrics import Epoch
from search.study.study import Study
from search.study.trial_attributes import DIVERGED, FINISHED, environments, measures_train
from search.worker import device, environment
from search.worker.environment import Environment
from search.worker.guarded_training import Diverged
from search.worker.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The stored metrics of a trial compared with those of its replay."""

    apart: dict[str, float]
    """Largest difference over the epochs, by metric; only metrics that differ."""
    differences: list[str]
    """Differences between the environments."""
    epochs: int

    @property
    def is_same(self) -> bool:
        return not self.apart

    def __str__(self) -> str:
        where = "; ".join(self.differences) or "none recorded"
        if self.is_same:
            same = f"All metrics are the same, bit for bit (epochs: {self.epochs})."
            return f"{same} Environment differences: {where}." if self.differences else same
        apart = ", ".join(f"{name} by {value:.3g}" for name, value in self.apart.items())
        hint = "" if self.differences else " --check looks for a cause in the training."
        return f"The metrics differ, at most {apart}. Environment differences: {where}.{hint}"


def check(trial: FrozenTrial, stored: Sequence[Epoch]) -> None:
    """Refuse a trial that cannot be replayed.

    Raises:
        UserError: the trial has not finished, or has no epoch to compare.
    """
    if trial.state not in FINISHED or not (stored or DIVERGED in trial.user_attrs):
        raise UserError(
            f"--trial {trial.number}: it is {trial.state.name} with {len(stored)} epochs, and only "
            "a completed or pruned trial can be compared"
        )


def place(trial: FrozenTrial, device_name: str, threads: int | None) -> tuple[str, int | None]:
    """Return the device and the number of CPU threads to replay `trial` with.

    They are those of its last environment, if this machine has the device and the user does not ask
    for others (`device_name` is `auto`, `threads` is None).
    """
    then = _last(trial)
    if then is None:
        return device_name, threads
    kind = environment.device_type(then)
    if device_name == "auto" and device.is_there(kind):
        device_name = kind
    if threads is None and device_name == kind:
        threads = environment.threads(then)
    return device_name, threads


def told(trial: FrozenTrial, now: Environment, asked: Sequence[str]) -> str:
    """Return in one line how `trial` is replayed, and whether it was trained in the same way.

    `asked` are the options with which the user asked for something else.
    """
    line = f"Replaying trial {trial.number} {environment.described(now)}"
    then = _last(trial)
    if then is None:
        return f"{line}; what it was trained with is not recorded."
    n = len(environments(trial))
    last = f" in the last of its {n} environments" if n > 1 else ""
    if environment.described(then) == environment.described(now):
        return f"{line}, as it was trained{last}."
    why = f", as you ask by {' and '.join(asked)}" if asked else ""
    lacks = "" if asked else ", which is not available here"
    return f"{line}{why}; it was trained {environment.described(then)}{last}{lacks}."


def train_again(
    study: Study,
    trial: FrozenTrial,
    stored: list[Epoch],
    machine: Machine,
    say: Callable[[str], None],
    after_batch: Callable[[int], None],
) -> Comparison:
    """Train `trial` from its seed for as many epochs as are `stored`, and compare the metrics.

    A diverged trial is trained into the epoch in which it diverged. Nothing is written.

    Raises:
        UserError: as `check` does.
        TrainingError: the training raised an error.
    """
    check(trial, stored)
    diverged = DIVERGED in trial.user_attrs
    training = machine.training(
        study,
        study.space.of(trial.params),
        seed=study.trial_seed(trial),
        is_detailed=measures_train(trial),
        after_batch=after_batch,
    )
    ours: list[Epoch] = []
    epochs = training.epochs()
    for _ in range(len(stored) + diverged):
        try:
            ours.append(next(epochs))
        except Diverged as error:
            say(f"[{trial.number}] {error}")
            break
        say(f"[{trial.number}] {study.epoch_text(ours[-1])}")
    apart = _apart(stored, ours)
    if len(ours) != len(stored):
        apart["epochs before the loss is not finite"] = abs(len(stored) - len(ours))
    return Comparison(
        apart=apart,
        differences=[
            line
            for then in environments(trial)
            for line in environment.differences(then, machine.environment)
        ],
        epochs=len(stored),
    )


def _last(trial: FrozenTrial) -> Environment | None:
    """Return the environment in which the trial was last trained; None if not recorded."""
    found = environments(trial)
    return found[-1] if found else None


def _apart(stored: list[Epoch], ours: list[Epoch]) -> dict[str, float]:
    apart: dict[str, float] = {}
    for then, now in zip(stored, ours, strict=False):
        for name in {**then.metrics, **now.metrics}:
            a, b = then.metrics.get(name), now.metrics.get(name)
            if a != b:
                distance = float("inf") if a is None or b is None else abs(a - b)
                apart[name] = max(distance, apart.get(name, 0.0))
    return apart
