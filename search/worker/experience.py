"""What a sampler learns from, if that is not simply the trials of the study.

Trials of a study that was redefined are shown with the present ranges, as far as they fit them.
Trials that are known from other studies come first, as if they had been trained before.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.database.knowledge import Known
from search.study.space import Space


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Returns the trials that a sampler is shown, from those of the study."""

    space: Space[Any]
    known: Sequence[Known]

    def __call__(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        fitted = [self.space.fitted(trial) for trial in trials]
        own = [trial for trial in fitted if trial is not None]
        values = [trial.values[0] for trial in own if trial.state == TrialState.COMPLETE]
        return [
            *(
                trial
                for of in self.known
                for trial in (of.trials if of.is_comparable else _ranked(of.trials, values))
            ),
            *own,
        ]


def _ranked(trials: Sequence[FrozenTrial], values: Sequence[float]) -> Sequence[FrozenTrial]:
    """Return complete trials of another task with the `values` at the same ranks among the study's
    own, so that its good trials are good here; as they are if there are none."""
    if not values:
        return trials
    order = np.argsort(np.argsort([trial.values[0] for trial in trials], kind="stable"))
    places = np.quantile(values, order / max(len(trials) - 1, 1))
    return [_with_value(trial, float(value)) for trial, value in zip(trials, places, strict=True)]


def _with_value(trial: FrozenTrial, value: float) -> FrozenTrial:
    found = copy.copy(trial)
    found.values = [value]
    found.intermediate_values = {**trial.intermediate_values, max(trial.intermediate_values): value}
    return found
