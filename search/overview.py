"""A study at one moment, as the database has it: what every view and summary is made from."""

from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.epoch import Epoch
from search.errors import UserError
from search.identity import study_ref
from search.leases import Lease, leases
from search.storage import Database
from search.trials import FINISHED, ranked


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All trials of a study with their recorded epochs and leases; reads, never writes."""

    trials: list[FrozenTrial]
    """By number."""
    epochs: dict[int, list[Epoch]]
    """By the trial's number; a trial without a finished epoch is not in it."""
    leases: dict[int, Lease]
    """By the trial's number."""

    @classmethod
    def of_study(cls, database: Database, name: str) -> "Overview":
        """Return the study called `name`, which is in the database, as it is now."""
        return Observer(
            database, optuna.load_study(study_name=name, storage=database.optuna)
        ).look()

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

    @property
    def ranked(self) -> list[FrozenTrial]:
        """The completed trials, best first; of equals the earlier one."""
        return ranked(self.trials)

    def of(self, trial: FrozenTrial) -> list[Epoch]:
        return self.epochs.get(trial.number, [])


class Observer:
    """Takes overviews of a study; asks the database only for what can have changed."""

    def __init__(self, database: Database, joined: optuna.Study) -> None:
        self._database = database
        self._ref = study_ref(joined)
        self._epochs: dict[int, list[Epoch]] = {}
        self._ended: set[int] | None = None
        """Numbers of the trials that had ended at the last look; None before the first."""

    def look(self) -> Overview:
        # Trials first: an epoch is recorded before its trial ends, so that all epochs of a trial
        # that is seen as ended are seen too, and need not be asked for again.
        trials = self._database.optuna.get_all_trials(self._ref.study_id, deepcopy=False)
        changed = None
        if self._ended is not None:
            changed = [
                trial.number
                for trial in trials
                if trial.state != TrialState.WAITING and trial.number not in self._ended
            ]
        if changed is None or changed:
            self._epochs |= self._database.epochs_of_study(self._ref.key, changed)
        self._ended = {trial.number for trial in trials if trial.state.is_finished()}
        return Overview(
            trials=trials,
            epochs=dict(self._epochs),
            leases=leases(self._database, self._ref.key),
        )
