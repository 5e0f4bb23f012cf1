"""One process of a search: claim a trial, run it, tell how it ended, until the budget is spent.

Nothing here is lost by a kill at any moment; a signal only makes it tidier.
"""

import _thread
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from optuna.trial import TrialState

from search import signals
from search.database.database import LeaseLost
from search.database.outage import Outage, is_outage, tolerating_outage
from search.worker.claims import Claim, Claims, Standing
from search.worker.result import Outcome
from search.worker.trial import Objective

RENEW_SECONDS = 2.0
"""How often a lease is renewed, and with it what the live view shows of a trial."""
WAIT_SECONDS = 1.0
"""How often a worker with nothing to do looks whether a trial has come free."""
FAILURES = 3
"""So many failed trials in a row stop a worker: failed ones do not count against the budget, and
would be followed by others for ever."""

log = logging.getLogger(__name__)


class Stopped(BaseException):
    """The worker was asked to stop; its trial stays for another. Not an error."""


class KeepsFailing(Exception):
    """Trial after trial has failed; the message names the last one's reason."""


@dataclass
class Stop:
    """When a worker is to stop: on a signal, or at a time."""

    deadline: float | None = None
    """In `time.monotonic()`; None for no time limit."""
    signal: int | None = None
    """The first signal that asked, such as `SIGTERM`; None if none did."""
    _asked: threading.Event = field(default_factory=threading.Event)

    def is_asked(self) -> bool:
        return self._asked.is_set() or self.is_late()

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def exit_status(self) -> int:
        """128 and the signal's number, as shells have it; 0 for the time limit."""
        return 128 + self.signal if self.signal else 0

    def __str__(self) -> str:
        return signal.Signals(self.signal).name if self.signal else "--timeout"

    def ask(self) -> None:
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until something but the deadline asks to stop."""
        self._asked.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the signals of `search.signals` ask to stop; the same one again ends the process at
        once, but for SIGHUP."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.signal = self.signal or number
            self.ask()
            if number != signal.SIGHUP:  # which comes twice where a shell and its terminal end
                signal.signal(number, signal.SIG_DFL)

        with signals.handled(ask):
            yield


def work(
    objective: Objective,
    claims: Claims,
    stop: Stop,
    *,
    after_trial: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until the study's budget is spent or `stop` asks for an end.

    `after_trial` is called when a trial has ended, without its lease and without any lock.

    A database that goes away is waited for: the trial that ran is dropped, and goes on from its
    last recorded epoch in whichever worker claims it next.

    Raises:
        KeepsFailing: so many trials in a row failed.
        DatabaseGone: it has not answered for `OUTAGE_SECONDS`.
        StudyGone: somebody has deleted or renamed the study.
    """
    failures = 0
    outage = Outage()
    while not stop.is_asked():
        try:
            claim = claims.claim()
            outage.is_over()
            if claim is Standing.SPENT:
                return
            if isinstance(claim, Standing):
                stop.wait(WAIT_SECONDS)
                continue
            outcome = _run(objective, claims, claim, stop)
            after_trial()
        except LeaseLost as error:
            log.warning("%s; going on with another", error)
            continue
        except Stopped:
            return
        except Exception as error:
            if not is_outage(error):
                raise
            outage.goes_on(error)
            stop.wait(WAIT_SECONDS)
            continue
        failures = failures + 1 if outcome.state == TrialState.FAIL else 0
        if failures == FAILURES:
            raise KeepsFailing(
                f"{FAILURES} trials in a row have failed; the last, trial {claim.number}: "
                f"{outcome.reason}"
            )


def _run(objective: Objective, claims: Claims, claim: Claim, stop: Stop) -> Outcome:
    try:
        with _renewing(claims, claim) as counted:

            def after_batch(batches: int) -> None:
                counted(batches)
                if stop.is_asked():
                    raise Stopped

            return objective.run(claim, after_batch)
    except Exception as error:
        if not isinstance(error, LeaseLost) and not is_outage(error):
            with tolerating_outage(), suppress(LeaseLost):
                claims.crash(claim, error, objective.kept)  # which sees whether the study is gone
        raise
    finally:
        with tolerating_outage():
            claims.release(claim)


@contextmanager
def _renewing(claims: Claims, claim: Claim) -> Iterator[Callable[[int], None]]:
    """Renew the lease in a thread; yield what is to be told the batches trained in the epoch."""
    ended, left = threading.Event(), threading.Event()
    rate = _Rate()

    def renew() -> None:
        try:
            while not ended.wait(RENEW_SECONDS):
                with tolerating_outage():
                    if not claims.renew(claim, rate.per_second()):
                        return  # lost: the trial's next epoch will notice
        finally:
            left.set()

    # `Thread.start` would wait for ever for a thread that dies for want of memory as it begins.
    _thread.start_new_thread(renew, ())
    try:
        yield rate.count
    finally:
        ended.set()
        left.wait(RENEW_SECONDS)  # a late renewal finds no lease, or this worker's own


class _Rate:
    """Batches trained per second since the last question."""

    def __init__(self) -> None:
        self._batches = 0
        self._asked = (time.monotonic(), 0)
        self._last: float | None = None

    def count(self, batches_in_epoch: int) -> None:
        if batches_in_epoch:
            self._batches += 1

    def per_second(self) -> float | None:
        """Return the rate; the last known one while nothing is trained, as in evaluation."""
        now, batches = time.monotonic(), self._batches
        since, before = self._asked
        self._asked = now, batches
        if batches > before and now > since:
            self._last = (batches - before) / (now - since)
        return self._last
