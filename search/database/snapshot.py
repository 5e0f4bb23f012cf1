"""A study at one moment, read from the database: the source of every view and summary."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.database import steering
from search.database.database import Database
from search.database.identity import DEFINITION, study_ref
from search.database.leases import Lease, leases
from search.errors import UserError
from search.study.metrics import Epoch, Objective, number
from search.study.trial_attributes import (
    AUDITED,
    CANCELED,
    FINISHED,
    REASON,
    VARIANT,
    rank,
    readable,
)


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All trials of a study with their recorded epochs and leases."""

    study_key: str
    trials: list[FrozenTrial]
    """By number; a trial that this service completed has its recorded value."""
    values: dict[int, float]
    """Of the completed trials, by number: the value in Optuna's tables."""
    epochs: dict[int, list[Epoch]]
    """By trial number; trials without a finished epoch are missing."""
    places: Mapping[tuple[int, int], int]
    """By trial and epoch: lower ones were recorded earlier. Only of trials that ran since an
    observer's first look."""
    leases: dict[int, Lease]
    """By trial number."""
    is_paused: bool
    """Whether a user has paused the study."""
    n_epochs: int
    """Number of epochs of a complete trial."""
    objective: Objective
    """What prunes and ranks trials."""
    final: Objective
    """What re-runs compare."""

    @classmethod
    def of_study(cls, database: Database, name: str) -> "Overview":
        """Return the current state of the study called `name`, which must exist."""
        return Observer(
            database, optuna.load_study(study_name=name, storage=database.optuna)
        ).look()

    @classmethod
    def of_trials(
        cls,
        trials: Sequence[FrozenTrial],
        *,
        study_key: str,
        epochs: dict[int, list[Epoch]],
        n_epochs: int,
        objective: Objective,
        final: Objective,
        places: Mapping[tuple[int, int], int] | None = None,
        leases: dict[int, Lease] | None = None,
        is_paused: bool = False,
    ) -> "Overview":
        """Return `trials` of a study, read through Optuna, with their recorded epochs."""
        return cls(
            study_key=study_key,
            trials=[
                _measured(readable(t), epochs.get(t.number, ()), n_epochs, objective)
                for t in trials
            ],
            values={
                trial.number: trial.values[0]
                for trial in trials
                if trial.state == TrialState.COMPLETE and trial.values
            },
            epochs=epochs,
            places=places or {},
            leases=leases or {},
            is_paused=is_paused,
            n_epochs=n_epochs,
            objective=objective,
            final=final,
        )

    def find(self, number: str) -> FrozenTrial:
        """Return the trial with this number, or the first ranked one for `best`.

        Raises:
            UserError: there is no such trial.
        """
        if number == "best":
            if not self.ranked:
                raise UserError("--trial best: no trial of the study is complete yet")
            return self.ranked[0]
        for trial in self.trials:
            if str(trial.number) == number:
                return trial
        raise UserError(
            f"--trial {number}: the study has no such trial; it has 0 to {len(self.trials) - 1}"
            if self.trials
            else f"--trial {number}: the study has no trials"
        )

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that count against the budget."""
        return [trial for trial in self.trials if trial.state in FINISHED]

    @property
    def n_recorded(self) -> int:
        """The number of recorded epochs of all trials, without those of audits."""
        return sum(
            min(len(self.of(trial)), trial.user_attrs.get(AUDITED, self.n_epochs))
            for trial in self.trials
        )

    @property
    def counts(self) -> Counter[TrialState]:
        """The number of trials in each state."""
        return Counter(trial.state for trial in self.trials)

    @property
    def canceled(self) -> Counter[TrialState]:
        """The number of trials in each state that a user ended for good."""
        return Counter(trial.state for trial in self.trials if CANCELED in trial.user_attrs)

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials that a worker runs."""
        return [
            trial
            for trial in self.trials
            if trial.state == TrialState.RUNNING
            and (lease := self.leases.get(trial.number)) is not None
            and lease.is_live
        ]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The trials that this service completed, best first; ties go to the earlier trial.

        Their values are the recorded ones, even if Optuna's tables differ.
        """
        measured = [trial for trial in self.trials if self.value(trial) is not None]
        score = self.objective.score
        return sorted(measured, key=lambda trial: rank(score(trial.values[0]), trial.number))

    def value(self, trial: FrozenTrial) -> float | None:
        """Return the recorded metric that ranks a completed trial.

        None if it is not complete, or was not completed by this service.
        """
        recorded = self.of(trial)
        if trial.state != TrialState.COMPLETE or len(recorded) != self.n_epochs:
            return None
        return self.objective.value(recorded[-1])

    @cached_property
    def told(self) -> dict[int, str]:
        """By trial number, what other tools stored of a trial, beside what was measured here.

        Optuna and its dashboard let anyone finish a trial, or add finished ones.
        """
        ended = [trial for trial in self.trials if trial.state.is_finished()]
        return {trial.number: self._account(trial) for trial in ended if not self._is_ours(trial)}

    @property
    def ended_here(self) -> list[FrozenTrial]:
        """The finished trials that this service completed or pruned, and nobody canceled."""
        return [
            trial
            for trial in self.finished
            if self.value(trial) is not None
            or (
                trial.state == TrialState.PRUNED
                and REASON in trial.user_attrs
                and CANCELED not in trial.user_attrs
            )
        ]

    @property
    def variants(self) -> dict[str, FrozenTrial]:
        """The trial of each variant, by name.

        Of several, the first with a value, since other tools can give a trial the same name;
        without a value, the last one that no other tool finished, since those before it failed.
        """
        found: dict[str, FrozenTrial] = {}
        for trial in sorted(self.trials, key=self._counts_as_variant):
            if VARIANT in trial.user_attrs:
                found[trial.user_attrs[VARIANT]] = trial
        return found

    def _counts_as_variant(self, trial: FrozenTrial) -> tuple[bool, bool, int]:
        is_scored = self.value(trial) is not None
        return is_scored, trial.number not in self.told, trial.number * (-1 if is_scored else 1)

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Return whether a worker of this service finished the trial."""
        if trial.state != TrialState.COMPLETE:
            return REASON in trial.user_attrs
        value = self.value(trial)
        return value is not None and value == self.values.get(trial.number)

    def _account(self, trial: FrozenTrial) -> str:
        recorded, value = self.of(trial), self.values.get(trial.number)
        told = trial.state.name if value is None else f"{trial.state.name} {value:.6g}"
        measured = f"{number(self.objective.value(recorded[-1]))} after " if recorded else ""
        return (
            f"told from outside: {told}; measured here: {measured}{len(recorded)} of "
            f"{self.n_epochs} epochs"
        )

    def of(self, trial: FrozenTrial) -> list[Epoch]:
        return self.epochs.get(trial.number, [])


class Observer:
    """Takes overviews of a study; reads only what can have changed from the database."""

    def __init__(self, database: Database, joined: optuna.Study) -> None:
        self._database = database
        self._ref = study_ref(joined)
        definition = joined.user_attrs[DEFINITION]
        self._n_epochs = int(definition["epochs"])
        direction = definition["direction"]
        self._objective = Objective(metric=definition["metric"], direction=direction)
        self._final = Objective(
            metric=definition["final_metric"],
            direction=direction,
            diverged_as=definition["diverged_as"],
        )
        self._epochs: dict[int, list[Epoch]] = {}
        self._places: dict[tuple[int, int], int] = {}
        self._settled: set[tuple[int, object]] | None = None
        """The trials whose epochs are all known, by number and by the moment at which they ended,
        since one that was pruned can go on; None before the first `look`."""

    def look(self) -> Overview:
        # Epochs are recorded under the trial's lease, before the trial ends. So a finished trial
        # without a lease has all its epochs, provided that epochs are read last. A trial that
        # another tool finished keeps its lease until its worker notices.
        trials = self._database.optuna.get_all_trials(self._ref.study_id, deepcopy=False)
        with self._database.engine.connect() as connection:
            held = leases(connection, self._ref.key)
            is_paused = steering.read(connection, self._ref.key).is_paused
        changed = None
        if self._settled is not None:
            changed = [
                trial.number
                for trial in trials
                if trial.state != TrialState.WAITING and _version(trial) not in self._settled
            ]
        if changed is None or changed:
            self._epochs |= self._database.epochs_of_study(self._ref.key, changed)
        if changed:
            self._places |= self._database.places(self._ref.key, changed)
        self._settled = {
            _version(trial)
            for trial in trials
            if trial.state.is_finished() and trial.number not in held
        }
        return Overview.of_trials(
            trials,
            study_key=self._ref.key,
            epochs=dict(self._epochs),
            places=self._places,
            leases=held,
            is_paused=is_paused,
            n_epochs=self._n_epochs,
            objective=self._objective,
            final=self._final,
        )


def _version(trial: FrozenTrial) -> tuple[int, object]:
    return trial.number, trial.datetime_complete


def _measured(
    trial: FrozenTrial, recorded: Sequence[Epoch], n_epochs: int, objective: Objective
) -> FrozenTrial:
    """Return the trial with its recorded value, if this service completed it."""
    if trial.state != TrialState.COMPLETE or len(recorded) != n_epochs:
        return trial
    values = [objective.value(recorded[-1])]
    if trial.values == values:
        return trial
    found = copy.copy(trial)
    found.values = values
    return found
