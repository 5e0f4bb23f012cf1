"""One worker of a search: claim a trial, run it, end it, until the budget is spent.

A kill at any moment loses nothing; a signal only makes the end tidier.
"""

import _thread
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.artifacts.files_of_study import StudyFiles
from search.artifacts.retention import Retention
from search.artifacts.store import open_artifacts
from search.database import steering
from search.database.database import Database
from search.database.identity import study_ref
from search.database.knowledge import check_origin, known, learn, unlearned
from search.database.leases import Claim, LeaseLost
from search.database.optuna_internals import FIXED_PARAMS
from search.database.outage import Outage, is_outage, tolerating_outage
from search.database.redefinition import redefinitions
from search.database.rungs import Ladder, Recorded
from search.database.studies import files_of, join
from search.errors import UserError
from search.reporting.notes import Notes
from search.study.budget import Budget
from search.study.metrics import Epoch
from search.study.pruners import ExemptingPruner, Promotion
from search.study.space import Value
from search.study.study import Study
from search.study.trial_attributes import AUDITED, is_fixed, readable
from search.worker.callbacks import Callbacks, ready
from search.worker.claims import Claims, Standing
from search.worker.config import WorkerConfig
from search.worker.cpu import Share
from search.worker.experience import Experience
from search.worker.machine import Machine
from search.worker.repeatable_sampler import RepeatableSampler
from search.worker.result import Outcome
from search.worker.stop import Stop, Stopped
from search.worker.trial import run_trial
from search.worker.trial_files import TrialFiles

RENEW_SECONDS = 2.0
"""How often a lease is renewed, and the live view's data of its trial with it."""
WAIT_SECONDS = 1.0
"""How often a worker with nothing to do looks for a free trial."""
FAILURES = 3
"""Number of failed trials in a row that stops a worker: failed trials do not count against the
budget, so that the search would never end."""

STEERED = "`python -m search stop`"
"""What stopped a worker that a user has asked through the database."""

log = logging.getLogger(__name__)


class KeepsFailing(Exception):
    """Several trials in a row have failed; the message names the last reason."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A study that was joined, and the means to run its trials on this machine."""

    study: Study
    joined: optuna.Study
    """The study in the database, with its sampler and pruner."""
    pruner: ExemptingPruner
    database: Database
    machine: Machine
    claims: Claims
    kept: Retention
    callbacks: Callbacks
    config: WorkerConfig
    share: Share = field(default_factory=partial(Share, log.warning))

    @classmethod
    @contextmanager
    def open(
        cls,
        config: WorkerConfig,
        study: Study,
        machine: Machine,
        *,
        given: Sequence[Mapping[str, Value]] = (),
        retry: bool = True,
        redefine: bool = False,
        learn_from: Sequence[str] = (),
    ) -> Iterator["Worker"]:
        """Open the database, join `study`, and enqueue its variants and what a user has `given`.

        A variant that failed is enqueued again only to `retry` it. With `redefine`, the study in
        the database changes to this one, as far as it can. The sampler learns from the trials of
        the studies `learn_from`, now and in later searches.

        Raises:
            UserError: the database cannot be used, the study in it is another one, or a callback
                cannot be used.
        """
        with ready(study.callbacks), closing(Database(config.storage)) as database:
            definition = study.definition(machine.session.digest, machine.session.precision)
            learn_from = unlearned(database, study.name, learn_from)
            for name in learn_from:
                check_origin(database, study, definition, name)
            # A redefinition stops the workers that were there before it, and not this one.
            since = None if redefine else config.since or steering.moment(database)
            joined = join(
                database,
                study,
                data_digest=machine.session.digest,
                precision=machine.session.precision,
                given=given,
                retry=retry,
                redefine=redefine,
            )
            study = study.in_precision(machine.session.precision)  # as notes and tables say
            ref = study_ref(joined)
            for name in learn_from:
                learn(database, ref, study.space, definition, name)
            elsewhere = known(database, ref, study.space)
            has_experience = bool(elsewhere or redefinitions(database, ref))
            joined.sampler = RepeatableSampler(
                study.sampler,
                study.seed,
                has_branches=study.space.has_branches,
                experience=(
                    Experience(space=study.space, known=elsewhere) if has_experience else None
                ),
            )
            store = StudyFiles(open_artifacts(config.artifacts), files_of(database, ref))
            joined.pruner = ExemptingPruner(
                study.pruner, _is_never_pruned, partial(Recorded, database, ref)
            )
            claims = Claims(
                database,
                joined,
                study=study,
                lease_seconds=config.lease_seconds,
                since=since,
            )
            yield cls(
                study=study,
                joined=joined,
                pruner=joined.pruner,
                database=database,
                machine=machine,
                claims=claims,
                kept=Retention(
                    database,
                    ref,
                    store,
                    name=study.name,
                    suffix=study.trainer.suffix,
                    epochs=study.epochs,
                    ladder=(
                        Ladder(ref=ref, promotion=study.pruner, epochs=study.epochs)
                        if isinstance(study.pruner, Promotion)
                        else None
                    ),
                ),
                callbacks=Callbacks(study=study, study_key=ref.key),
                config=replace(config, since=claims.since),
            )

    def work(
        self, stop: Stop, *, budget: Budget | None = None, wanted: Collection[str] | None = None
    ) -> None:
        """Run trials until the study's `budget` is spent or `stop` asks for an end.

        `budget` None: run enqueued trials only, of the names `wanted` if it is given. Notes are
        written between trials. A database that does not answer is waited for: the running trial is
        dropped, and resumes after its last recorded epoch in the worker that claims it next.

        Raises:
            KeepsFailing: `FAILURES` trials in a row failed.
            DatabaseGone: it has not answered for `OUTAGE_SECONDS`.
            StudyGone: somebody has deleted or renamed the study.
        """
        study = self.study if budget is None else self.study.with_budget(budget)
        notes = Notes(database=self.database, study=study, joined=self.joined)
        with tolerating_outage():
            self.kept.sweep()
            notes.update()
        self.claims.limit(budget=budget, wanted=wanted)
        failures = _Failures()
        outage = Outage()
        while not stop.is_asked():
            try:
                claim = self.claims.claim()
                outage.is_over()
                if claim is Standing.SPENT:
                    break
                if claim is Standing.STOPPED:
                    stop.ask(by=STEERED)
                    break
                if isinstance(claim, Standing):
                    stop.wait(WAIT_SECONDS)
                    continue
                outcome = self._run(claim, stop)
                notes.update_if_due()
            except LeaseLost as error:
                log.warning("%s; claiming another", error)
                continue
            except Stopped:
                continue  # or end, if it was `stop` that asked; otherwise the next claim says why
            except Exception as error:
                outage.note(error)
                stop.wait(WAIT_SECONDS)
                continue
            failures.count(outcome)
            if failures.n == FAILURES:
                raise KeepsFailing(
                    f"{FAILURES} trials in a row have failed; the last, trial {claim.number}: "
                    f"{outcome.reason}"
                )
        with tolerating_outage():
            notes.update()
            self.kept.clean()  # of what could not be removed before

    def run(self, claim: Claim, after_batch: Callable[[int], None]) -> Outcome:
        """Run a claimed trial; an unforeseen error is stored with it. The lease is given back.

        Raises:
            LeaseLost: another worker has the trial.
            UserError: the study's training does not do what the service needs.
        """
        try:
            return run_trial(self, claim, after_batch)
        except UserError as error:
            with tolerating_outage(), suppress(LeaseLost):
                self.finish(claim, Outcome(state=TrialState.FAIL, reason=str(error)))
            raise
        except Exception as error:
            if not isinstance(error, LeaseLost) and not is_outage(error):
                with tolerating_outage(), suppress(LeaseLost):
                    if ended := self.claims.crash(claim, error, self.kept):
                        self._after_trial(claim, ended)
            raise
        finally:
            with tolerating_outage():
                self.claims.release(claim)

    def trial_files(self, claim: Claim, trial: FrozenTrial) -> TrialFiles:
        return TrialFiles(
            study=self.study,
            database=self.database,
            kept=self.kept,
            claim=claim,
            trial=trial,
        )

    def watched(self, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
        """Yield the epochs as they are trained; report once if this worker gets little CPU."""
        return self.share.watched(epochs) if self.machine.device == "cpu" else epochs

    def record(self, claim: Claim, epoch: Epoch, sha256: str | None) -> None:
        """Record an epoch and its file; the checkpoint before it is removed.

        Raises:
            LeaseLost: another worker has the trial; nothing is written.
            UserError: the epoch lacks the metric that the first rung compares.
        """
        loss = self.study.first_loss
        if loss is not None and loss not in epoch.metrics:
            raise UserError(
                f"fit yielded {', '.join(epoch.metrics)} in epoch {epoch.number}, but not {loss}, "
                "the pruner's first_loss; yield it, or name another metric"
            )
        # Weights are listed when the trial ends.
        checkpoint = None if epoch.number == self.study.epochs else sha256
        listed = self.kept.listed(claim, checkpoint, epoch.number)
        score = self.study.objective.score(self.study.objective.value(epoch))
        self.kept.store.remove(self.database.record(claim, epoch, sha256, listed, score=score))

    def finish(self, claim: Claim, outcome: Outcome) -> Outcome:
        """End the trial in the database, and call the callbacks; return the outcome as stored.

        Raises:
            LeaseLost: another worker has the trial; nothing is written.
        """
        if epochs := self.database.epochs(claim.study_key, claim.number):
            seconds = fmean(epoch.seconds for epoch in epochs)
            outcome = replace(outcome, epochs=len(epochs), seconds_per_epoch=round(seconds, 3))
            if outcome.state == TrialState.PRUNED:  # Optuna shows its last value too
                outcome = replace(outcome, value=self.study.objective.value(epochs[-1]))
        self.kept.store.remove(self.claims.finish(claim, outcome, self.kept))
        self._after_trial(claim, outcome)
        return outcome

    def _after_trial(self, claim: Claim, outcome: Outcome) -> None:
        if not self.study.callbacks:
            return
        with tolerating_outage():
            trial = readable(self.database.optuna.get_trial(claim.trial_id))
            epochs = self.database.epochs(claim.study_key, claim.number)
            self.callbacks.after_trial(trial, outcome, epochs[-1] if epochs else None)

    def _run(self, claim: Claim, stop: Stop) -> Outcome:
        with _renewing(self.claims, claim) as renewed:

            def after_batch(batches: int) -> None:
                renewed.rate.count(batches)
                if renewed.is_lost:
                    raise LeaseLost(f"trial {claim.number} was ended or taken over")
                if stop.is_asked() or renewed.must_leave:
                    raise Stopped

            return self.run(claim, after_batch)


def _is_never_pruned(trial: FrozenTrial) -> bool:
    """Return whether the trial is never pruned, since somebody asked for just these values, or
    since an audit runs it to its end."""
    return (
        is_fixed(trial)
        or FIXED_PARAMS in trial.system_attrs
        or AUDITED in readable(trial).user_attrs
    )


@contextmanager
def _renewing(claims: Claims, claim: Claim) -> Iterator["_Renewed"]:
    """Renew the lease in a thread, which also looks whether the trial is to be left."""
    ended, left = threading.Event(), threading.Event()
    renewed = _Renewed()

    def renew() -> None:
        try:
            while not ended.wait(RENEW_SECONDS):
                with tolerating_outage():
                    if not claims.renew(claim, renewed.rate.per_second()):
                        renewed.is_lost = True
                        return
                    renewed.must_leave = claims.must_leave()
        finally:
            left.set()

    # `Thread.start` blocks forever if the new thread runs out of memory before it has started.
    _thread.start_new_thread(renew, ())
    try:
        yield renewed
    finally:
        ended.set()
        left.wait(RENEW_SECONDS)  # a later renewal finds no lease, or this worker's own


class _Failures:
    """Counts failed trials in a row. A trial that was not trained beyond the epoch after which one
    of them failed says nothing: it is only between them."""

    def __init__(self) -> None:
        self.n = 0
        self._after = 0
        """The most epochs that one of them had recorded."""

    def count(self, outcome: Outcome) -> None:
        if outcome.state == TrialState.FAIL:
            self.n += 1
            self._after = max(self._after, outcome.epochs)
        elif outcome.epochs > self._after:
            self.n = self._after = 0


class _Rate:
    """Counts trained batches per second."""

    def __init__(self) -> None:
        self._batches = 0
        self._asked = (time.monotonic(), 0)
        self._last: float | None = None

    def count(self, batches_in_epoch: int) -> None:
        if batches_in_epoch:
            self._batches += 1

    def per_second(self) -> float | None:
        """Return the rate since the last call; during evaluation the last known rate."""
        now, batches = time.monotonic(), self._batches
        since, before = self._asked
        self._asked = now, batches
        if batches > before and now > since:
            self._last = (batches - before) / (now - since)
        return self._last


@dataclass
class _Renewed:
    """What the thread that renews a lease knows of it."""

    rate: _Rate = field(default_factory=_Rate)
    is_lost: bool = False
    """Whether another worker has the trial, or somebody has ended it."""
    must_leave: bool = False
    """As `Claims.must_leave`."""
