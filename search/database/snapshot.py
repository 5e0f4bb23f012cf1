"""A study at one moment, as the database has it: what every view and summary is made from."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.database.database import Database
from search.database.identity import DEFINITION, study_ref
from search.database.leases import Lease, leases
from search.errors import UserError
from search.study.epoch import Epoch
from search.study.trial_attributes import FINISHED, REASON, VARIANT, rank, readable


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All trials of a study with their recorded epochs and leases; reads, never writes."""

    trials: list[FrozenTrial]
    """By number; a trial that was trained to its end here has the value that was recorded."""
    values: dict[int, float]
    """Of the completed trials, by number: what Optuna was told."""
    epochs: dict[int, list[Epoch]]
    """By the trial's number; a trial without a finished epoch is not in it."""
    leases: dict[int, Lease]
    """By the trial's number."""
    n_epochs: int
    """After how many a trial of the study is complete."""

    @classmethod
    def of_study(cls, database: Database, name: str) -> "Overview":
        """Return the study called `name`, which is in the database, as it is now."""
        return Observer(
            database, optuna.load_study(study_name=name, storage=database.optuna)
        ).look()

    @classmethod
    def of_trials(
        cls,
        trials: Sequence[FrozenTrial],
        *,
        epochs: dict[int, list[Epoch]],
        n_epochs: int,
        leases: dict[int, Lease] | None = None,
    ) -> "Overview":
        """Return `trials` of a study, as Optuna has them, with what was recorded of them."""
        return cls(
            trials=[_measured(readable(t), epochs.get(t.number, ()), n_epochs) for t in trials],
            values={
                trial.number: trial.values[0]
                for trial in trials
                if trial.state == TrialState.COMPLETE and trial.values
            },
            epochs=epochs,
            leases=leases or {},
            n_epochs=n_epochs,
        )

    def find(self, number: str) -> FrozenTrial:
        """Return the trial of that number, or the first of the ranked ones for `best`.

        Raises:
            UserError: there is none.
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
    def running(self) -> list[FrozenTrial]:
        """The trials that a worker holds a lease of."""
        return [
            trial
            for trial in self.trials
            if trial.state == TrialState.RUNNING and trial.number in self.leases
        ]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The trials that were trained to their end here, best first; of equals the earlier one.

        Their values are those that were recorded, whatever Optuna was told.
        """
        measured = [trial for trial in self.trials if self.score(trial) is not None]
        return sorted(measured, key=lambda trial: rank(trial.values[0], trial.number))

    def score(self, trial: FrozenTrial) -> float | None:
        """Return the accuracy that ranks a completed trial, as it was recorded.

        None if it is not complete, or was not trained to its end here.
        """
        recorded = self.of(trial)
        if trial.state != TrialState.COMPLETE or len(recorded) != self.n_epochs:
            return None
        return recorded[-1].selection_accuracy

    @cached_property
    def told(self) -> dict[int, str]:
        """What was told of trials from outside, beside what was measured; by the trial's number.

        Anyone can end a trial with Optuna and its dashboard, and add ended ones.
        """
        ended = [trial for trial in self.trials if trial.state.is_finished()]
        return {trial.number: self._account(trial) for trial in ended if not self._is_ours(trial)}

    @property
    def ended_here(self) -> list[FrozenTrial]:
        """Those of the finished trials that this service trained until they were to end."""
        return [
            trial
            for trial in self.finished
            if self.score(trial) is not None
            or (trial.state == TrialState.PRUNED and REASON in trial.user_attrs)
        ]

    @property
    def variants(self) -> dict[str, FrozenTrial]:
        """By the variant's name its trial: of several the first that has a score, since others can
        give theirs that name, else the last of those that nobody else has ended, since those
        before it failed."""
        found: dict[str, FrozenTrial] = {}
        for trial in sorted(self.trials, key=self._counts_as_variant):
            if VARIANT in trial.user_attrs:
                found[trial.user_attrs[VARIANT]] = trial
        return found

    def _counts_as_variant(self, trial: FrozenTrial) -> tuple[bool, bool, int]:
        is_scored = self.score(trial) is not None
        return is_scored, trial.number not in self.told, trial.number * (-1 if is_scored else 1)

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Return whether a worker of this service ended the trial."""
        if trial.state != TrialState.COMPLETE:
            return REASON in trial.user_attrs
        score = self.score(trial)
        return score is not None and score == self.values.get(trial.number)

    def _account(self, trial: FrozenTrial) -> str:
        recorded, value = self.of(trial), self.values.get(trial.number)
        told = trial.state.name if value is None else f"{trial.state.name} {value:.6g}"
        measured = f"{recorded[-1].selection_accuracy:.4f} after " if recorded else ""
        return (
            f"told from outside: {told}; measured here: {measured}{len(recorded)} of "
            f"{self.n_epochs} epochs"
        )

    def of(self, trial: FrozenTrial) -> list[Epoch]:
        return self.epochs.get(trial.number, [])


class Observer:
    """Takes overviews of a study; asks the database only for what can have changed."""

    def __init__(self, database: Database, joined: optuna.Study) -> None:
        self._database = database
        self._ref = study_ref(joined)
        self._n_epochs = int(joined.user_attrs[DEFINITION]["epochs"])
        self._epochs: dict[int, list[Epoch]] = {}
        self._settled: set[int] | None = None
        """Numbers of the trials whose epochs are all known; None before the first look."""

    def look(self) -> Overview:
        # An epoch is recorded under the trial's lease, and before the trial ends. So all epochs of
        # a trial that has ended and has no lease are found, as long as epochs are read last. One
        # that somebody else has ended keeps its lease until its worker notices.
        trials = self._database.optuna.get_all_trials(self._ref.study_id, deepcopy=False)
        held = leases(self._database, self._ref.key)
        changed = None
        if self._settled is not None:
            changed = [
                trial.number
                for trial in trials
                if trial.state != TrialState.WAITING and trial.number not in self._settled
            ]
        if changed is None or changed:
            self._epochs |= self._database.epochs_of_study(self._ref.key, changed)
        self._settled = {
            trial.number
            for trial in trials
            if trial.state.is_finished() and trial.number not in held
        }
        return Overview.of_trials(
            trials, epochs=dict(self._epochs), leases=held, n_epochs=self._n_epochs
        )


def _measured(trial: FrozenTrial, recorded: Sequence[Epoch], n_epochs: int) -> FrozenTrial:
    """Return a trial that was trained to its end here with the value that was recorded."""
    if trial.state != TrialState.COMPLETE or len(recorded) != n_epochs:
        return trial
    if trial.values == [recorded[-1].selection_accuracy]:
        return trial
    found = copy.copy(trial)
    found.values = [recorded[-1].selection_accuracy]
    return found
