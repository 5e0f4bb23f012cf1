"""Claims: which worker may run and end which trial.

Every claim and every end happens under the study's lock, so that each variant runs once and the
budget is met exactly, with any number of workers. Optuna commits a new trial before its lease is
granted. A process that is killed in between leaves a running trial without a lease, which the next
claim takes over.
"""

import socket
import traceback
import uuid
from collections.abc import Collection
from enum import Enum

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import TrialState
from sqlalchemy import Connection

from search.artifacts.retention import Retention
from search.database import leases, queries
from search.database.database import Database
from search.database.identity import study_ref
from search.database.leases import Claim, LeaseLost
from search.database.liveness import ProcessIdentity
from search.database.optuna_internals import FIXED_PARAMS, end_trial, set_user_attributes
from search.database.queries import Entry
from search.study.space import Space
from search.study.trial_attributes import CRASH, FINISHED, FIXED_TRIAL_ATTRIBUTES, REASON, readable
from search.worker.result import Outcome

LEASE_SECONDS = 120.0
"""How long a worker may be silent before its trial is taken over. Leases are renewed every few
seconds; the rest allows for machines that stall. Workers killed on the same host are noticed at
once."""
ATTEMPTS = 3
"""Maximum attempts for a fixed trial that fails."""
TRACEBACK_CHARACTERS = 4000
"""Maximum length of a stored traceback; its end is kept."""


class Standing(Enum):
    """Why there is nothing to claim."""

    SPENT = "the budget is spent"
    WAIT = "other workers are running the last trials of the budget"


class StudyGone(Exception):
    """The study was deleted or renamed during the search."""


class Claims:
    """The claims of one worker, which runs one trial at a time."""

    def __init__(
        self,
        database: Database,
        study: optuna.Study,
        *,
        space: Space,
        budget: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
        process: ProcessIdentity | None = None,
    ) -> None:
        """`budget` is as for `limit`; `process` is this one by default."""
        self._database = database
        self._study = study
        self._ref = study_ref(study)
        self._space = space
        self._process = process or ProcessIdentity.current()
        self._worker = f"{socket.gethostname()}-{self._process.pid}-{uuid.uuid4().hex[:8]}"
        self._lease_seconds = lease_seconds
        self.limit(budget=budget)

    def limit(self, *, budget: int | None, wanted: Collection[str] | None = None) -> None:
        """Claim until `budget` trials of the study have finished.

        If `budget` is None, only enqueued trials are claimed, and of the fixed ones only those
        named in `wanted`, if given.
        """
        assert budget is None or wanted is None, "a budget counts every trial"
        self._budget = budget
        self._wanted = wanted

    def claim(self) -> Claim | Standing:
        """Return the trial to run: an interrupted one, else a waiting fixed one, else another
        waiting one, else a new one; or why there is none.

        A fixed trial that failed is enqueued again. A waiting trial with values outside the study's
        ranges, which other tools can enqueue, is ended as FAIL.

        Raises:
            StudyGone: the study no longer exists.
        """
        with self._database.lock(self._ref.key) as connection:
            self._check_study(connection)
            leased = leases.leases(connection, self._ref.key)
            unfinished = queries.unfinished(connection, self._ref)
            chosen = self._choose(connection, list(filter(self._is_wanted, unfinished)), leased)
            running = {t.number for t in unfinished if t.state == TrialState.RUNNING}
            # Left by workers that were killed after they ended their trial.
            leases.drop(connection, self._ref.key, leased.keys() - running)
            if isinstance(chosen, Standing):
                return chosen
            claim = Claim(
                study_key=self._ref.key,
                trial_id=chosen.trial_id,
                number=chosen.number,
                worker=self._worker,
            )
            leases.grant(connection, claim, process=self._process, seconds=self._lease_seconds)
            return claim

    def _check_study(self, connection: Connection) -> None:
        """Raises:
        StudyGone: the study no longer exists.
        """
        if not queries.is_there(connection, self._ref):
            raise StudyGone(
                f"the study {self._study.study_name!r} was deleted or renamed; a renamed one is "
                "resumed with its present name as --name"
            )

    def finish(self, claim: Claim, outcome: Outcome, kept: Retention | None = None) -> list[str]:
        """End the trial and its lease in one transaction; with `kept`, enter its weights.

        Return the ids of files that are no longer needed.

        Raises:
            LeaseLost: another worker has the trial, or it has been ended; nothing is written.
        """
        with self._database.lock(self._ref.key) as connection:
            leases.check(connection, claim)
            if not end_trial(
                connection, claim.trial_id, outcome.state, outcome.value, outcome.attributes
            ):
                raise LeaseLost(f"trial {claim.number} was ended by another worker")
            surplus = []
            if kept is not None:
                surplus += kept.enter(connection, claim, outcome.weights_sha256)
                surplus += kept.drop_others(connection)
            leases.drop(connection, self._ref.key, {claim.number})
        return surplus

    def crash(self, claim: Claim, error: Exception, kept: Retention | None = None) -> None:
        """Store an unforeseen error: release the trial for one retry; the second time, end it.

        Raises:
            LeaseLost: another worker has the trial; nothing is written.
            StudyGone: the study no longer exists, which explains the error.
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
            leases.check(connection, claim)
            set_user_attributes(connection, claim.trial_id, {CRASH: trace})
            leases.drop(connection, self._ref.key, {claim.number})

    def renew(self, claim: Claim, batches_per_second: float | None) -> bool:
        """Extend the lease; return whether this worker still holds it."""
        return leases.renew(
            self._database.engine,
            claim,
            seconds=self._lease_seconds,
            batches_per_second=batches_per_second,
        )

    def release(self, claim: Claim) -> None:
        """End the lease, so that another worker can take over the trial at once."""
        leases.release(self._database.engine, claim)

    def _is_wanted(self, trial: Entry) -> bool:
        return self._wanted is None or trial.name in self._wanted

    def _choose(
        self, connection: Connection, unfinished: list[Entry], leased: dict[int, leases.Lease]
    ) -> Entry | Standing:
        """Return the trial to run, in state RUNNING, or why there is none."""
        storage = self._database.optuna
        running = [trial for trial in unfinished if trial.state == TrialState.RUNNING]
        free = [trial for trial in running if self._is_free(leased.get(trial.number))]
        if self._budget is not None:
            counts = queries.counts(connection, self._ref)
            finished = sum(counts[state] for state in FINISHED)
            if self._budget - finished - (len(running) - len(free)) <= 0:
                # Interrupted trials stay as they are, for a larger budget.
                return Standing.SPENT if finished >= self._budget else Standing.WAIT
        for trial in sorted(free, key=_fixed_first):
            if self._fault(connection, trial) is None:
                return trial
            running.remove(trial)  # another tool's trial
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
        """Return why the trial's values do not fit the study; None if they do."""
        try:
            values, distributions = queries.given_values(connection, trial.trial_id)
            self._space.check(values)
            ranges = self._space.ranges
            for name, distribution in distributions.items():
                check_distribution_compatibility(distribution, ranges[name])
        except ValueError as error:
            return str(error)
        return None

    def _is_free(self, lease: leases.Lease | None) -> bool:
        if lease is None or lease.expired:
            return True
        # Our own: this worker dropped the trial during an outage of the database.
        return lease.worker == self._worker or lease.process.is_dead()

    def _enqueue_failed(self, connection: Connection) -> list[Entry]:
        """Enqueue the fixed trials again that have only failed, and return the new ones."""
        attempts: dict[str | None, list[Entry]] = {}
        for trial in filter(self._is_wanted, queries.fixed(connection, self._ref)):
            attempts.setdefault(trial.name, []).append(trial)
        before = {trial.trial_id for tried in attempts.values() for trial in tried}
        for tried in attempts.values():
            if len(tried) < ATTEMPTS and all(trial.state == TrialState.FAIL for trial in tried):
                first = readable(self._database.optuna.get_trial(tried[0].trial_id))
                params = first.system_attrs.get(FIXED_PARAMS)
                if not isinstance(params, dict):
                    continue  # another tool's trial of the same name
                attributes = {
                    key: first.user_attrs[key]
                    for key in FIXED_TRIAL_ATTRIBUTES & first.user_attrs.keys()
                }
                self._study.enqueue_trial(params, user_attrs=attributes)
        now = filter(self._is_wanted, queries.fixed(connection, self._ref))
        return [trial for trial in now if trial.trial_id not in before]


def _fixed_first(trial: Entry) -> tuple[bool, bool, int]:
    return trial.name is None, not trial.is_enqueued, trial.number
