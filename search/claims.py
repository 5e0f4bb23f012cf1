"""Who may run which trial.

Every claim is made under the study's one lock, so that each variant runs once and the budget is
met exactly, however many workers there are. Optuna commits the trial before the lease is granted;
a process killed in between leaves a running trial without a lease, which the next claim takes over.
"""

from dataclasses import dataclass
from enum import Enum

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from search import leases
from search.presence import Presence
from search.storage import Database
from search.study import FINISHED, REASON, is_variant

LEASE_SECONDS = 600.0
"""How long a worker may be silent before its trial is taken over. It renews every few seconds; the
length is for machines that stall, and a killed worker on the same files is noticed at once."""


class Standing(Enum):
    """Why there is nothing to claim."""

    SPENT = "the budget is spent"
    WAIT = "other workers are running the last trials of the budget"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to run one trial."""

    trial_id: int
    number: int
    taken_over: bool
    """Another process has begun this trial."""


class Claims:
    """The claims of one worker on one study."""

    def __init__(
        self,
        database: Database,
        study: optuna.Study,
        presence: Presence,
        *,
        budget: int,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database = database
        self._study = study
        self._study_id: int = study._study_id
        self._presence = presence
        self._budget = budget
        self._lease_seconds = lease_seconds

    def claim(self) -> Claim | Standing:
        """Return the trial to run now: one to take over, else a waiting variant, else another
        waiting trial, else a new one; or why there is none.

        Trials that nobody runs and that are beyond the budget are ended as FAIL.
        """
        with self._database.lock(self._study.study_name) as connection:
            # Leases first: a worker ends its trial, then its lease, and does so without the lock.
            # The other way round, a trial that ends in between would seem to run without a lease.
            leased = leases.leases(self._database, self._study_id)
            trials = self._database.optuna.get_all_trials(self._study_id, deepcopy=False)
            finished = sum(trial.state in FINISHED for trial in trials)
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            free = [trial for trial in running if self._is_free(leased.get(trial._trial_id))]
            left = self._budget - finished - (len(running) - len(free))
            for trial in free[max(left, 0) :]:
                self._end_surplus(trial)
            if left <= 0:
                return Standing.SPENT if finished >= self._budget else Standing.WAIT
            if free:
                return self._grant(connection, free[0], taken_over=True)
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            if waiting:
                trial = min(waiting, key=lambda t: (not is_variant(t), t.number))
                self._database.optuna.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            else:
                trial_id = self._database.optuna.create_new_trial(self._study_id)
                trial = self._database.optuna.get_trial(trial_id)
            return self._grant(connection, trial, taken_over=False)

    def renew(self, claim: Claim, batches_per_second: float | None) -> bool:
        """Extend the lease; return whether it was still ours."""
        return leases.renew(
            self._database,
            trial_id=claim.trial_id,
            worker=self._presence.worker,
            seconds=self._lease_seconds,
            batches_per_second=batches_per_second,
        )

    def release(self, claim: Claim) -> None:
        """Give the trial back, or mark that it has ended."""
        leases.release(self._database, trial_id=claim.trial_id, worker=self._presence.worker)

    def leave(self) -> None:
        """End this worker's presence; its leases have been released."""
        leased = leases.leases(self._database, self._study_id)
        self._presence.leave({lease.worker for lease in leased.values()})

    def _is_free(self, lease: leases.Lease | None) -> bool:
        return lease is None or lease.expired or self._presence.is_gone(lease.worker)

    def _end_surplus(self, trial: FrozenTrial) -> None:
        storage = self._database.optuna
        storage.set_trial_user_attr(
            trial._trial_id, REASON, f"interrupted, and beyond the budget of {self._budget}"
        )
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _grant(self, connection: Connection, trial: FrozenTrial, *, taken_over: bool) -> Claim:
        leases.grant(
            connection,
            study_id=self._study_id,
            trial_id=trial._trial_id,
            worker=self._presence.worker,
            seconds=self._lease_seconds,
        )
        return Claim(trial_id=trial._trial_id, number=trial.number, taken_over=taken_over)
