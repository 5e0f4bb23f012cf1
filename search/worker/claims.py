"""Who may run which trial, and end it.

Every claim and every end is made under the study's one lock, so that each variant runs once and
the budget is met exactly, however many workers there are. Optuna commits the trial before the
lease is granted; a process killed in between leaves a running trial without a lease, which the
next claim takes over.
"""

import traceback
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import TrialState
from sqlalchemy import Connection

from search.artifacts.retention import Kept
from search.database import leases, queries
from search.database.artifact_lists import Listed
from search.database.database import Database, LeaseLost
from search.database.identity import study_ref
from search.database.leases import Holder
from search.database.optuna_internals import FIXED_PARAMS, end_trial
from search.database.queries import Entry
from search.study.choices import Ranges, check_params
from search.study.epoch import Epoch
from search.study.trial_attributes import CRASH, FINISHED, FIXING, REASON, readable
from search.worker.result import Outcome

LEASE_SECONDS = 120.0
"""How long a worker may be silent before its trial is taken over. It renews every few seconds; the
length is for machines that stall, and a killed worker of the same host is noticed at once."""
ATTEMPTS = 3
"""Maximum attempts for a fixed trial that fails."""
TRACEBACK_CHARACTERS = 4000
"""What is kept of an error's traceback: its end."""


class Standing(Enum):
    """Why there is nothing to claim."""

    SPENT = "the budget is spent"
    WAIT = "other workers are running the last trials of the budget"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to run one trial."""

    trial_id: int
    number: int


class StudyGone(Exception):
    """The study was deleted or renamed while it was being worked on."""


class Claims:
    """The claims of one worker on one study; it runs one trial at a time."""

    def __init__(
        self,
        database: Database,
        study: optuna.Study,
        *,
        ranges: Ranges,
        budget: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
        holder: Holder | None = None,
    ) -> None:
        """`budget` is as for `limit`; `holder` None stands for this process."""
        self._database = database
        self._study = study
        self._ref = study_ref(study)
        self._ranges = ranges
        self._holder = holder or Holder()
        self._lease_seconds = lease_seconds
        self.limit(budget=budget)

    @property
    def worker(self) -> str:
        """The name that the leases have."""
        return self._holder.worker

    def limit(self, *, budget: int | None, wanted: Collection[str] | None = None) -> None:
        """Claim until `budget` trials of the study have finished.

        None: claim what is enqueued and sample nothing; `wanted` are then the names of the fixed
        trials to claim, None for all.
        """
        assert budget is None or wanted is None, "a budget counts every trial"
        self._budget = budget
        self._wanted = wanted

    def claim(self) -> Claim | Standing:
        """Return the trial to run now: one to take over, else a waiting fixed one, else another
        waiting trial, else a new one; or why there is none.

        A fixed trial that failed is enqueued again. A trial that was given values which the study
        does not have, as anyone can with Optuna alone, is ended as FAIL.

        Raises:
            StudyGone: Optuna has the study no more.
        """
        with self._database.lock(self._ref.key) as connection:
            self._check_study(connection)
            leased = leases.seen_by(connection, self._ref.key)
            unfinished = queries.unfinished(connection, self._ref)
            chosen = self._choose(connection, list(filter(self._is_wanted, unfinished)), leased)
            running = {t.number for t in unfinished if t.state == TrialState.RUNNING}
            # Of workers killed after the end.
            leases.drop(connection, self._ref.key, leased.keys() - running)
            if isinstance(chosen, Standing):
                return chosen
            leases.grant(
                connection,
                study_key=self._ref.key,
                trial=chosen.number,
                holder=self._holder,
                seconds=self._lease_seconds,
            )
            return Claim(trial_id=chosen.trial_id, number=chosen.number)

    def _check_study(self, connection: Connection) -> None:
        """Raises:
        StudyGone: Optuna has the study no more.
        """
        if not queries.is_there(connection, self._ref):
            raise StudyGone(
                f"the study {self._study.study_name!r} was deleted or renamed; a renamed one is "
                "resumed with its present name as --name"
            )

    def record(
        self, claim: Claim, epoch: Epoch, sha256: str | None, listed: Listed | None = None
    ) -> list[str]:
        """Keep the figures of an epoch; return the files that `listed` replaces in the list.

        Raises:
            LeaseLost: another worker has the trial by now; nothing is written.
        """
        return self._database.record(
            self._ref.key, claim.number, self.worker, epoch, sha256, listed
        )

    def epochs(self, claim: Claim) -> list[Epoch]:
        """Return the epochs that are recorded of the trial, by whomever, in order."""
        return self._database.epochs(self._ref.key, claim.number)

    def checkpoint_sha256(self, claim: Claim, number: int) -> str | None:
        """Return the SHA-256 of the trial's state after epoch `number`; None if it was not kept."""
        return self._database.checkpoint_sha256(self._ref.key, claim.number, number)

    def finish(self, claim: Claim, outcome: Outcome, kept: Kept | None = None) -> list[str]:
        """End the trial and its lease in one transaction; with `kept`, enter its weights.

        Return the ids of files that nobody needs any more.

        Raises:
            LeaseLost: another worker has the trial by now, or has ended it; nothing is written.
        """
        with self._database.lock(self._ref.key) as connection:
            self._check_lease(connection, claim)
            if not end_trial(
                connection, claim.trial_id, outcome.state, outcome.value, outcome.attributes
            ):
                raise LeaseLost(f"trial {claim.number} was ended by another worker")
            surplus = []
            if kept is not None:
                surplus += kept.enter(
                    connection, claim.trial_id, claim.number, outcome.weights_sha256
                )
                surplus += kept.drop_others(connection)
            leases.drop(connection, self._ref.key, {claim.number})
        return surplus

    def crash(self, claim: Claim, error: Exception, kept: Kept | None = None) -> None:
        """Note an error that nobody foresaw: leave the trial to one more worker, else end it.

        Raises:
            LeaseLost: another worker has the trial by now; nothing is written.
            StudyGone: Optuna has the study no more, which is why.
        """
        with self._database.engine.connect() as connection:
            self._check_study(connection)
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
        if CRASH in self._database.optuna.get_trial(claim.trial_id).user_attrs:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            ended = Outcome(state=TrialState.FAIL, reason=reason, traceback=trace)
            self.finish(claim, ended, kept)
            return
        with self._database.lock(self._ref.key) as connection:
            self._check_lease(connection, claim)
            self._database.optuna.set_trial_user_attr(claim.trial_id, CRASH, trace)
            leases.drop(connection, self._ref.key, {claim.number})

    def renew(self, claim: Claim, batches_per_second: float | None) -> bool:
        """Extend the lease; return whether it was still ours."""
        return leases.renew(
            self._database,
            study_key=self._ref.key,
            trial=claim.number,
            worker=self.worker,
            seconds=self._lease_seconds,
            batches_per_second=batches_per_second,
        )

    def release(self, claim: Claim) -> None:
        """Give the trial back, so that it can be taken over at once."""
        leases.release(
            self._database, study_key=self._ref.key, trial=claim.number, worker=self.worker
        )

    def _is_wanted(self, trial: Entry) -> bool:
        return self._wanted is None or trial.name in self._wanted

    def _choose(
        self, connection: Connection, unfinished: list[Entry], leased: dict[int, leases.Lease]
    ) -> Entry | Standing:
        """Return the trial to run, RUNNING by now, or why there is none."""
        storage = self._database.optuna
        running = [trial for trial in unfinished if trial.state == TrialState.RUNNING]
        free = [trial for trial in running if self._is_free(leased.get(trial.number))]
        if self._budget is not None:
            counts = queries.counts(connection, self._ref)
            finished = sum(counts[state] for state in FINISHED)
            if self._budget - finished - (len(running) - len(free)) <= 0:
                # What was interrupted stays as it is, for a higher budget.
                return Standing.SPENT if finished >= self._budget else Standing.WAIT
        for trial in sorted(free, key=_fixed_first):
            if self._fault(connection, trial) is None:
                return trial
            running.remove(trial)  # somebody else's, who asked Optuna for it
        waiting = [trial for trial in unfinished if trial.state == TrialState.WAITING]
        if any(trial.state == TrialState.FAIL and trial.name is not None for trial in unfinished):
            waiting += self._enqueue_failed(connection)
        for trial in sorted(waiting, key=_fixed_first):
            if fault := self._fault(connection, trial):
                storage.set_trial_user_attr(trial.trial_id, REASON, f"cannot be run: {fault}")
                storage.set_trial_state_values(trial.trial_id, TrialState.FAIL)
                continue
            if not storage.set_trial_state_values(trial.trial_id, TrialState.RUNNING):
                raise LeaseLost(f"trial {trial.number} was begun by another worker")  # lock lost
            return trial
        if self._budget is None:
            return Standing.WAIT if running else Standing.SPENT
        return queries.entry(connection, storage.create_new_trial(self._ref.study_id))

    def _fault(self, connection: Connection, trial: Entry) -> str | None:
        """Return why the values that the trial was given are not the study's; None if they are."""
        try:
            values, distributions = queries.given_values(connection, trial.trial_id)
            check_params(values, self._ranges)
            for name, distribution in distributions.items():
                check_distribution_compatibility(distribution, self._ranges[name])
        except ValueError as error:
            return str(error)
        return None

    def _is_free(self, lease: leases.Lease | None) -> bool:
        if lease is None or lease.expired:
            return True
        # Our own: a trial that was dropped while the database was away.
        return lease.worker == self.worker or lease.process.is_dead()

    def _enqueue_failed(self, connection: Connection) -> list[Entry]:
        """Enqueue the fixed trials that have only failed so far, and return the new ones."""
        attempts: dict[str | None, list[Entry]] = {}
        for trial in filter(self._is_wanted, queries.fixed(connection, self._ref)):
            attempts.setdefault(trial.name, []).append(trial)
        before = {trial.trial_id for tried in attempts.values() for trial in tried}
        for tried in attempts.values():
            if len(tried) < ATTEMPTS and all(trial.state == TrialState.FAIL for trial in tried):
                first = readable(self._database.optuna.get_trial(tried[0].trial_id))
                params = first.system_attrs.get(FIXED_PARAMS)
                if not isinstance(params, dict):
                    continue  # somebody else's, who called it so
                attributes = {
                    key: first.user_attrs[key] for key in FIXING & first.user_attrs.keys()
                }
                self._study.enqueue_trial(params, user_attrs=attributes)
        now = filter(self._is_wanted, queries.fixed(connection, self._ref))
        return [trial for trial in now if trial.trial_id not in before]

    def _check_lease(self, connection: Connection, claim: Claim) -> None:
        """Refuse to go on without the lease; under the lock, so that none takes it after."""
        lease = leases.seen_by(connection, self._ref.key).get(claim.number)
        if lease is None or lease.worker != self.worker:
            raise LeaseLost(f"trial {claim.number} is no longer leased to this worker")


def _fixed_first(trial: Entry) -> tuple[bool, bool, int]:
    return trial.name is None, not trial.is_enqueued, trial.number
