"""Claims: which worker may run which trial, until which epoch, and end it.

Every claim and every end happens under the study's lock, so that each variant runs once and the
budget is met exactly, with any number of workers. Optuna commits a new trial before its lease is
granted. A process that is killed in between leaves a running trial without a lease, which the next
claim takes over.
"""

import math
import socket
import traceback
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from enum import Enum

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import TrialState
from sqlalchemy import Connection

from search.artifacts.retention import Retention
from search.database import leases, queries, steering
from search.database.budgets import early_end
from search.database.database import Database
from search.database.identity import study_ref
from search.database.leases import Claim, LeaseLost
from search.database.liveness import ProcessIdentity
from search.database.optuna_internals import (
    FIXED_PARAMS,
    end_trial,
    reopen_trial,
    set_user_attributes,
)
from search.database.queries import Entry
from search.database.redefinition import redefinitions
from search.database.rungs import Ladder
from search.errors import UserError
from search.study.budget import Budget
from search.study.pruners import Promotion
from search.study.seeds import SEEDS, derive_seed
from search.study.study import Study
from search.study.trial_attributes import (
    AUDITED,
    CRASH,
    CUTOFF,
    FINISHED,
    FIXED_TRIAL_ATTRIBUTES,
    PAUSED,
    REASON,
    REOPENED,
    RUNG,
    SECONDS,
    readable,
)
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
    PAUSED = "a user has paused the study"
    STOPPED = "a user has stopped the workers of the study"


class StudyGone(Exception):
    """The study was deleted or renamed during the search."""


class Claims:
    """The claims of one worker, which runs one trial at a time."""

    def __init__(
        self,
        database: Database,
        joined: optuna.Study,
        *,
        study: Study,
        budget: Budget | None = None,
        lease_seconds: float = LEASE_SECONDS,
        process: ProcessIdentity | None = None,
        since: float | None = None,
    ) -> None:
        """`joined` is `study` in the database; `budget` is as for `limit`; `process` is this one by
        default. A request to stop counts if it is later than `since`, in the database's time; None
        for now."""
        self._database = database
        self._joined = joined
        self._study = study
        self._ref = study_ref(joined)
        self._promotion = study.pruner if isinstance(study.pruner, Promotion) else None
        redefined = redefinitions(database, self._ref)
        self._redefined_from = redefined[-1].trial if redefined else 0
        self._process = process or ProcessIdentity.current()
        self._worker = f"{socket.gethostname()}-{self._process.pid}-{uuid.uuid4().hex[:8]}"
        self._lease_seconds = lease_seconds
        self.since = steering.moment(database) if since is None else since
        self.limit(budget=budget)

    def limit(self, *, budget: Budget | None, wanted: Collection[str] | None = None) -> None:
        """Claim until the `budget` is spent.

        If `budget` is None, only enqueued trials are claimed, and of the fixed ones only those
        named in `wanted`, if given.
        """
        assert budget is None or wanted is None, "a budget counts every trial"
        self._budget = budget
        self._wanted = wanted

    def claim(self) -> Claim | Standing:
        """Return the trial to run, or why there is none.

        It is an interrupted one, else a waiting fixed one, else another waiting one, else one that
        the budget had cut short or that has earned a promotion, else a new one. Once the budget is
        spent, it is a pruned one that is drawn for the audit. A fixed trial that failed is enqueued
        again. A waiting trial with values outside the study's ranges, which other tools can
        enqueue, is ended as FAIL. There is none while a user has paused or stopped the workers, or
        once the search has ended early.

        Raises:
            StudyGone: the study no longer exists.
        """
        with self._database.lock(self._ref.key) as connection:
            self._check_study(connection)
            leased = leases.leases(connection, self._ref.key)
            unfinished = queries.unfinished(connection, self._ref)
            running = {t.number for t in unfinished if t.state == TrialState.RUNNING}
            ended = leased.keys() - running  # by workers that were killed before they gave it back
            leased = {n: lease for n, lease in leased.items() if n not in ended}
            wanted = list(filter(self._is_wanted, unfinished))
            asked = self._asked(connection)
            if asked is Standing.STOPPED or (asked and self._has_more(wanted)):
                return asked
            if self._early_end(connection, self._budget) is not None:
                return Standing.SPENT
            chosen = self._choose(connection, wanted, leased)
            leases.drop(connection, self._ref.key, ended)
            if isinstance(chosen, Standing):
                return chosen
            claim = Claim(
                study_key=self._ref.key,
                trial_id=chosen.trial_id,
                number=chosen.number,
                worker=self._worker,
                until=self._until(connection, chosen, leased),
                is_audit=chosen.audited is not None,
            )
            leases.grant(connection, claim, process=self._process, seconds=self._lease_seconds)
            return claim

    def asked(self) -> Standing | None:
        """Return whether a user has asked this worker to stop or to pause; None if not."""
        with self._database.engine.connect() as connection:
            return self._asked(connection)

    def must_leave(self) -> bool:
        """Return whether this worker has to leave the trial that it runs: a user has asked for it,
        or another trial has ended the search early."""
        with self._database.engine.connect() as connection:
            asked = self._asked(connection)
            return asked is not None or self._early_end(connection, self._budget) is not None

    def _asked(self, connection: Connection) -> Standing | None:
        found = steering.read(connection, self._ref.key)
        if found.stopped_at > self.since:
            return Standing.STOPPED
        return Standing.PAUSED if found.is_paused else None

    def _has_more(self, wanted: list[Entry]) -> bool:
        """Return whether there is anything left to run, now or after a pause."""
        if self._budget is not None:
            return not self.is_spent(self._budget)
        return any(not trial.state.is_finished() for trial in wanted)

    def _check_study(self, connection: Connection) -> None:
        """Raises:
        StudyGone: the study no longer exists.
        """
        if not queries.is_there(connection, self._ref):
            raise StudyGone(
                f"the study {self._joined.study_name!r} was deleted or renamed; a renamed one is "
                "resumed with its present name as --name"
            )

    def early_end(self, budget: Budget) -> str | None:
        """Return why the search ends before `budget` is spent; None if it goes on."""
        with self._database.engine.connect() as connection:
            return self._early_end(connection, budget)

    def _early_end(self, connection: Connection, budget: Budget | None) -> str | None:
        if budget is None:
            return None
        study = self._study
        return early_end(
            connection, self._ref, budget, objective=study.objective, epochs=study.epochs
        )

    def is_spent(self, budget: Budget) -> bool:
        """Return whether `budget` leaves no trial to begin or to go on with."""
        with self._database.engine.connect() as connection:
            if self._early_end(connection, budget) is not None:
                return True
            counts = queries.counts(connection, self._ref)
            finished = sum(counts[state] for state in FINISHED)
            epochs = queries.n_epochs(connection, self._ref)
            if not budget.is_spent(trials=finished, epochs=epochs):
                return False
            is_within = epochs < (budget.epochs or math.inf)
            if finished == budget.trials and is_within and self._resumable(connection):
                return False
            running = counts[TrialState.RUNNING]
            return not self._drawn(connection) and not (running and self._audits(connection))

    def finish(self, claim: Claim, outcome: Outcome, kept: Retention | None = None) -> list[str]:
        """End the trial and its lease in one transaction; with `kept`, enter its weights.

        Return the ids of files that are no longer needed.

        Raises:
            LeaseLost: another worker has the trial, or it has been ended; nothing is written.
        """
        with self._database.lock(self._ref.key) as connection:
            leases.check(connection, claim)
            state = outcome.state
            if claim.is_audit and state == TrialState.FAIL:
                state = TrialState.PRUNED  # as it was, so that the budget stays spent
            if not end_trial(connection, claim.trial_id, state, outcome.value, outcome.attributes):
                raise LeaseLost(f"trial {claim.number} was ended by another worker")
            surplus = []
            if kept is not None:
                if not self._may_go_on(outcome):
                    surplus += kept.enter(connection, claim, outcome.weights_sha256)
                surplus += kept.drop_others(connection)
            leases.drop(connection, self._ref.key, {claim.number})
        return surplus

    def _may_go_on(self, outcome: Outcome) -> bool:
        is_waiting = outcome.rung is not None and self._promotion is not None
        return is_waiting or outcome.paused is not None

    def crash(
        self, claim: Claim, error: Exception, kept: Retention | None = None
    ) -> Outcome | None:
        """Store an unforeseen error: release the trial for one retry; the second time, end it.

        Return how it ended; None if it was released.

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
            return ended
        with self._database.lock(self._ref.key) as connection:
            leases.check(connection, claim)
            set_user_attributes(connection, claim.trial_id, {CRASH: trace})
            leases.drop(connection, self._ref.key, {claim.number})
        return None

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
        self, connection: Connection, unfinished: list[Entry], leased: Mapping[int, leases.Lease]
    ) -> Entry | Standing:
        """Return the trial to run, in state RUNNING, or why there is none."""
        storage = self._database.optuna
        running = [trial for trial in unfinished if trial.state == TrialState.RUNNING]
        free = [trial for trial in running if self._is_free(leased.get(trial.number))]
        n_held = len(running) - len(free)
        room = self._room(connection, n_held)
        if room > 0:  # otherwise interrupted trials stay as they are, for a larger budget
            for trial in sorted(free, key=_fixed_first):
                if self._fault(connection, trial) is not None:
                    running.remove(trial)  # another tool's trial
                elif self._until(connection, trial, leased) > 0:
                    return trial
        may_begin = self._epochs_left(connection, leased) > 0
        if room > 0 and may_begin:
            waiting = [trial for trial in unfinished if trial.state == TrialState.WAITING]
            if any(t.state == TrialState.FAIL and t.name is not None for t in unfinished):
                waiting += self._enqueue_failed(connection)
            for trial in sorted(waiting, key=_fixed_first):
                if fault := self._fault(connection, trial):
                    storage.set_trial_user_attr(trial.trial_id, REASON, f"cannot be run: {fault}")
                    storage.set_trial_state_values(trial.trial_id, TrialState.FAIL)
                    continue
                if not storage.set_trial_state_values(trial.trial_id, TrialState.RUNNING):
                    # The lock was lost.
                    raise LeaseLost(f"trial {trial.number} was begun by another worker")
                return trial
        if self._budget is None:
            return Standing.WAIT if running else Standing.SPENT
        if room >= 0 and may_begin and (found := self._resumable(connection)):
            return self._reopened(connection, found, {REOPENED: found.paused or found.rung})
        if room > 0 and may_begin:
            return queries.entry(connection, storage.create_new_trial(self._ref.study_id))
        n_audits = sum(trial.audited is not None for trial in running)
        if n_held == n_audits and (drawn := self._drawn(connection)):
            return self._reopened(
                connection, drawn[0], {REOPENED: drawn[0].rung, AUDITED: drawn[0].rung}
            )
        return Standing.WAIT if n_held and room >= 0 else Standing.SPENT

    def _room(self, connection: Connection, n_held: int) -> float:
        """Return the number of trials in the budget that are neither finished nor held by other
        workers; below 0 if somebody has made the budget smaller."""
        if self._budget is None or self._budget.trials is None:
            return math.inf
        counts = queries.counts(connection, self._ref)
        return self._budget.trials - sum(counts[state] for state in FINISHED) - n_held

    def _epochs_left(
        self, connection: Connection, leased: Mapping[int, leases.Lease], but: int | None = None
    ) -> float:
        """Return the number of epochs in the budget that are neither recorded nor granted to other
        workers; those of the trial `but` are not counted."""
        if self._budget is None or self._budget.epochs is None:
            return math.inf
        granted = {
            number: lease.until
            for number, lease in leased.items()
            # A worker whose lease has expired can still record epochs, until another has its trial.
            if lease.worker != self._worker and not lease.process.is_dead() and not lease.is_audit
        }
        if but is not None:
            granted[but] = 0
        recorded = queries.n_epochs(connection, self._ref, but=granted.keys())
        return self._budget.epochs - recorded - sum(granted.values())

    def _until(
        self, connection: Connection, trial: Entry, leased: Mapping[int, leases.Lease]
    ) -> int:
        """Return the epoch after which the trial stops."""
        stop = self._study.epochs
        if trial.audited is not None:
            return stop
        if self._promotion is not None and trial.is_competing:
            # Another pruner may have let it pass a rung; the last epoch may await its decision.
            passed = queries.n_epochs_of(connection, self._ref, trial.number) - 1
            stop = self._promotion.next_stop(max(trial.reopened, passed), stop)
        return int(min(stop, self._epochs_left(connection, leased, but=trial.number)))

    def _reopened(
        self, connection: Connection, found: Entry, attributes: Mapping[str, int | None]
    ) -> Entry:
        """Return a pruned trial in state RUNNING, to go on with."""
        dropped = (RUNG, PAUSED, CUTOFF, REASON, SECONDS)
        if not reopen_trial(connection, found.trial_id, attributes, dropped):
            raise LeaseLost(f"trial {found.number} was changed by another worker")  # lock lost
        return queries.entry(connection, found.trial_id)

    def _resumable(self, connection: Connection) -> Entry | None:
        """Return a pruned trial that the budget had cut short, or else one that has earned a
        promotion; None if there is none."""
        cut_short = queries.cut_short(connection, self._ref)
        if cut_short or self._promotion is None:
            return min(cut_short, key=_fixed_first, default=None)
        ladder = Ladder(ref=self._ref, promotion=self._promotion, epochs=self._study.epochs)
        return ladder.promotable(connection)

    def _drawn(self, connection: Connection) -> list[Entry]:
        """Return the pruned trials that are drawn for the audit and have not begun it."""
        if self._study.audit == 0:
            return []
        return [
            trial
            for trial in queries.stopped_at_a_rung(connection, self._ref)
            if derive_seed(self._study.seed, "audit", trial.number) < self._study.audit * SEEDS
        ]

    def _audits(self, connection: Connection) -> list[Entry]:
        """Return the unfinished trials of the audit."""
        found = queries.unfinished(connection, self._ref)
        return [trial for trial in found if trial.audited is not None]

    def _fault(self, connection: Connection, trial: Entry) -> str | None:
        """Return why the trial's values do not fit the study; None if they do, or if the trial was
        begun before the study was redefined, with epochs that are recorded."""
        if trial.number < self._redefined_from:
            return None
        try:
            values, distributions = queries.given_values(connection, trial.trial_id)
            if trial.is_rerun:  # of a trial of any ranges
                self._study.space.of(values)
                return None
            self._study.space.check(values)
            ranges = self._study.space.ranges
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
            if any(trial.is_canceled for trial in tried):
                continue
            if len(tried) < ATTEMPTS and all(trial.state == TrialState.FAIL for trial in tried):
                first = readable(self._database.optuna.get_trial(tried[0].trial_id))
                params = first.system_attrs.get(FIXED_PARAMS)
                if not isinstance(params, dict):
                    continue  # another tool's trial of the same name
                attributes = {
                    key: first.user_attrs[key]
                    for key in FIXED_TRIAL_ATTRIBUTES & first.user_attrs.keys()
                }
                with suppress(UserError):  # another tool's trial, without all values
                    complete = self._study.space.complete(params)
                    self._joined.enqueue_trial(complete, user_attrs=attributes)
        now = filter(self._is_wanted, queries.fixed(connection, self._ref))
        return [trial for trial in now if trial.trial_id not in before]


def _fixed_first(trial: Entry) -> tuple[bool, bool, int]:
    return trial.name is None, not trial.is_enqueued, trial.number
