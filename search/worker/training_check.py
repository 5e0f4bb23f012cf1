"""Checks that a study's training can be resumed and replayed: `search.reproduce --check`.

It trains a few epochs, then the same again, then again from the state after the first epoch, and
compares every metric bit for bit.
"""

from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.samplers import RandomSampler

from search.study.metrics import Epoch
from search.study.space import Params, params_text
from search.study.study import Study
from search.worker.guarded_training import GuardedTraining
from search.worker.machine import Machine

EPOCHS = 2
DRAWS = 50
"""Number of random draws in which every branch of the choices is looked for."""


def check_training(
    study: Study,
    machine: Machine,
    say: Callable[[str], None],
    after_batch: Callable[[int], None],
) -> list[str]:
    """Return one line for each set of choices whose training is not repeatable.

    A study with branches is checked once for each combination of classes that it can take.

    Raises:
        Diverged: a metric is not finite.
        TrainingError, UserError: as `GuardedTraining` does.
    """
    faults = []
    for params in _samples(study):
        say(f"Checking {params_text(params)}")
        fault = _fault(study, machine, study.space.of(params), after_batch)
        if fault is not None:
            faults.append(fault)
    return faults


def _samples(study: Study) -> Iterator[Params]:
    """Yield random choices, one for each set of parameters that a trial can have."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = optuna.create_study(sampler=RandomSampler(seed=study.seed))
    seen: set[frozenset[str]] = set()
    for _ in range(DRAWS if study.space.has_branches else 1):
        trial = drawn.ask()
        study.space.suggest(trial)
        if (names := frozenset(trial.params)) not in seen:
            seen.add(names)
            yield trial.params


def _fault(
    study: Study, machine: Machine, choices: Any, after_batch: Callable[[int], None]
) -> str | None:
    def new() -> GuardedTraining:
        return machine.training(
            study, choices, seed=study.repeat_seed(0), is_detailed=True, after_batch=after_batch
        )

    first, states, undisturbed = new(), [], []
    for epoch in first.epochs():
        undisturbed.append(epoch)
        states.append(first.state())
    if apart := _apart(undisturbed, list(new().epochs())):
        return (
            f"replay: {apart}; the likely cause is a random generator that the run's seed does not "
            "determine, or a computation that is not deterministic"
        )
    resumed = new()
    resumed.load(states[0])
    if apart := _apart(undisturbed[1:], list(resumed.epochs(after=1))):
        return (
            f"resume after epoch 1: {apart}; the likely cause is state that state_dict lacks, or a "
            "random generator of its own that is made once and not for each epoch (see "
            "Run.seed_for)"
        )
    return None


def _apart(ours: list[Epoch], theirs: list[Epoch]) -> str | None:
    """Return the first difference in words; None if all metrics are the same."""
    for a, b in zip(ours, theirs, strict=True):
        for name in {**a.metrics, **b.metrics}:
            pair = a.metrics.get(name), b.metrics.get(name)
            if pair[0] != pair[1]:
                return f"{name} is {pair[0]} and then {pair[1]} after epoch {a.number}"
    return None
