"""Checks that a study's training can be resumed and replayed: `search.reproduce --check`.

It trains a few epochs, then trains them again in such a way that each epoch is trained by a new
object from the state after the epoch before, and compares every metric bit for bit. It also notes
which choices the training reads: one that it never reads changes nothing, perhaps by a misspelling.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler

from search.study.metrics import Epoch
from search.study.space import Params, Value, params_text
from search.study.study import Study
from search.worker.guarded_training import GuardedTraining
from search.worker.machine import Machine

EPOCHS = 4
"""As many show what is kept from one epoch to the one after the next."""
DRAWS = 50
"""Number of random draws in which every category of the choices is looked for."""


@dataclass(frozen=True)
class Checked:
    """What was found of a study's training."""

    faults: list[str]
    """A line for each set of choices whose training is not repeatable."""
    unread: list[str]
    """The choices that no training has read."""


def check_training(
    study: Study,
    machine: Machine,
    say: Callable[[str], None],
    after_batch: Callable[[int], None],
) -> Checked:
    """Check the training with some sets of choices.

    The sets are random, and take every category, so every class of a branch, that `DRAWS` random
    draws take.

    Raises:
        Diverged: a metric is not finite.
        TrainingError, UserError: as `GuardedTraining` does.
    """
    faults, read = [], set[str]()
    samples = _samples(study)
    for number, params in enumerate(samples, start=1):
        say(f"Checking choices {number} of {len(samples)}: {params_text(params)}")
        choices = _noting(study.space.of(params), read)
        fault = _Check(study, machine, choices, say, after_batch).fault()
        if fault is not None:
            faults.append(fault)
    names = [] if "__dict__" in read else [field.name for field in fields(study.choices)]
    return Checked(faults, [name for name in names if name not in read])


def _noting(choices: Any, read: set[str]) -> Any:
    """Return a copy of the choices that adds the names of the attributes that are read to `read`;
    `__dict__` if it is copied, since nobody knows what is read of the copy."""
    kind = type(choices)

    def get(self: Any, name: str) -> Any:
        read.add(name)
        return object.__getattribute__(self, name)

    def reduce(self: Any, protocol: object) -> Any:
        read.add("__dict__")
        return copy.copy, (choices,)

    methods = {"__getattribute__": get, "__reduce_ex__": reduce}
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__")}
    noting = copy.copy(choices)
    same = type(kind.__name__, (kind,), {"__slots__": (), **names, **methods})
    object.__setattr__(noting, "__class__", same)
    return noting


def _samples(study: Study) -> list[Params]:
    """Return as few of the random draws as take every category that any of them takes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = optuna.create_study(sampler=RandomSampler(seed=study.seed))
    draws: list[Params] = []
    for _ in range(DRAWS):
        trial = drawn.ask()
        study.space.suggest(trial)
        draws.append(trial.params)
    categorical = [
        name
        for name, distribution in study.space.ranges.items()
        if isinstance(distribution, CategoricalDistribution)
    ]

    def missing(draw: Params) -> set[tuple[str, Value]]:
        return {(name, draw[name]) for name in categorical if name in draw} - seen

    found, seen = [draws[0]], set[tuple[str, Value]]()
    seen |= missing(draws[0])
    while missing(best := max(draws, key=lambda draw: len(missing(draw)))):
        found.append(best)
        seen |= missing(best)
    return found


class _Check:
    """A check of the training with some choices."""

    def __init__(
        self,
        study: Study,
        machine: Machine,
        choices: Any,
        say: Callable[[str], None],
        after_batch: Callable[[int], None],
    ) -> None:
        self._study = study
        self._machine = machine
        self._choices = choices
        self._say = say
        self._after_batch = after_batch

    def fault(self) -> str | None:
        """Return what is not repeatable, and the likely cause; None if everything is."""
        undisturbed = self._whole("undisturbed")
        if not (apart := _apart(undisturbed, self._resumed())):
            return None
        if again := _apart(undisturbed, self._whole("again")):
            return (
                f"replay: {again}; the likely cause is a random generator that the run's seed does "
                "not determine, or a computation that is not deterministic"
            )
        return (
            f"resume: {apart}; the likely cause is state that state_dict lacks, work after the "
            "yield that the next epoch needs (the state is taken at the yield), or a random "
            "generator that is made once and not for each epoch (see Run.seed_for)"
        )

    def _whole(self, what: str) -> list[Epoch]:
        found = []
        for epoch in self._new().epochs():
            found.append(epoch)
            self._say(f"[{what}] {self._study.epoch_text(epoch)}")
        return found

    def _resumed(self) -> list[Epoch]:
        """Train each epoch with a new object, as if the worker were killed after every epoch."""
        found: list[Epoch] = []
        state: bytes | None = None
        for number in range(self._study.epochs):
            training = self._new()
            if state is not None:
                training.load(state)
            found.append(next(training.epochs(after=number)))
            state = training.state()
            self._say(f"[resumed] {self._study.epoch_text(found[-1])}")
        return found

    def _new(self) -> GuardedTraining:
        return self._machine.training(
            self._study,
            self._choices,
            seed=self._study.repeat_seed(0),
            is_detailed=True,
            after_batch=self._after_batch,
        )


def _apart(ours: Sequence[Epoch], theirs: Sequence[Epoch]) -> str | None:
    """Return the first difference in words; None if all metrics are the same."""
    for a, b in zip(ours, theirs, strict=True):
        for name in {**a.metrics, **b.metrics}:
            pair = a.metrics.get(name), b.metrics.get(name)
            if pair[0] != pair[1]:
                return f"{name} is {pair[0]} and then {pair[1]} after epoch {a.number}"
    return None
