"""Only the worker that holds a trial's lease can record or end it.

One that slept past its lease finds its trial gone, and goes on with another.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.database.leases import Claim, LeaseLost
from search.study.study import Study
from search.worker.result import Outcome
from tests.support.kept_weights import check
from tests.support.process import ELSEWHERE, Start, Workers


def test_a_worker_past_its_lease_cannot_end_the_trial(
    workers: Workers, joined: optuna.Study
) -> None:
    sleeper, heir = workers.new(lease_seconds=0.1), workers.new()
    claim = workers.claim(sleeper)
    time.sleep(0.2)
    taken = workers.claim(heir)
    assert taken.number == claim.number
    with pytest.raises(LeaseLost):
        sleeper.finish(claim, Outcome(state=TrialState.FAIL, reason="mine"))
    with pytest.raises(LeaseLost):
        sleeper.crash(claim, ZeroDivisionError())
    assert joined.trials[0].state == TrialState.RUNNING
    assert joined.trials[0].user_attrs == {"variant": "question-1"}
    heir.finish(taken, Outcome(state=TrialState.COMPLETE, value=0.25))
    with pytest.raises(LeaseLost):
        sleeper.finish(claim, Outcome(state=TrialState.FAIL, reason="mine"))
    assert (joined.trials[0].state, joined.trials[0].value) == (TrialState.COMPLETE, 0.25)


def test_a_trial_is_taken_over_once_its_lease_has_expired(workers: Workers) -> None:
    stalled = workers.new(lease_seconds=0.3, process=ELSEWHERE)
    claim = workers.claim(stalled)
    other = workers.new()
    before = workers.claim(other)
    assert before.number != claim.number
    time.sleep(0.4)
    taken = workers.claim(workers.new())
    assert taken.number == claim.number
    assert not stalled.renew(claim, None)


def test_a_renewed_lease_does_not_expire(workers: Workers) -> None:
    slow = workers.new(lease_seconds=0.5)
    claim = workers.claim(slow)
    for _ in range(4):
        time.sleep(0.2)
        assert slow.renew(claim, None)
    other = workers.claim(workers.new())
    assert other.number != claim.number


KILLED = """
import os, signal, sys
import optuna
from search.study.budget import Budget
from search.study.study_file import load
from search.worker.claims import Claims
from search.database.database import Database
database = Database(sys.argv[1])
joined = optuna.load_study(study_name="small", storage=database.optuna)
claims = Claims(database, joined, study=load("digits"), budget=Budget(trials=6))
print(claims.claim().number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_workers_trial_is_free_at_once_on_the_same_host(
    url: str, workers: Workers
) -> None:
    command = [sys.executable, "-c", KILLED, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.read() == "0\n"
        # Not waited for yet, so that the process is a zombie: dead, and its id still there.
        assert workers.claim(workers.new()).number == 0
    assert killed.returncode == -signal.SIGKILL


def test_a_worker_of_another_host_is_dead_by_its_lease_alone(workers: Workers) -> None:
    workers.claim(workers.new(process=ELSEWHERE))
    assert workers.claim(workers.new()).number == 1


def test_a_worker_that_lost_its_trial_drops_it_without_harm(start: Start) -> None:
    sleeper, heir = start(), start()
    claim = sleeper.claim()
    taken: list[Claim] = []

    def robbed(batches: int) -> None:
        if not taken:
            sleeper.claims.release(claim)  # as if the lease had expired
            taken.append(heir.claim())

    with pytest.raises(LeaseLost):
        sleeper.run(claim, robbed)
    assert sleeper.figures()[0] == []
    heir.run(taken[0])
    assert heir.trials[0].state == TrialState.COMPLETE


def test_a_worker_drops_a_trial_that_another_has_ended(start: Start) -> None:
    sleeper, heir = start(), start()
    claim = sleeper.claim()
    calls: list[int] = []

    def overtaken(batches: int) -> None:
        calls.append(batches)
        if batches == 1 and calls.count(1) == 4:  # in the last epoch
            sleeper.claims.release(claim)
            heir.run(heir.claim())

    with pytest.raises(LeaseLost):
        sleeper.run(claim, overtaken)
    assert [epoch["number"] for epoch in heir.figures()[0]] == [1, 2, 3, 4]
    assert heir.trials[0].state == TrialState.COMPLETE


def test_a_worker_that_lost_its_trial_leaves_no_weights(
    start: Start, tiny: Study, tmp_path: Path
) -> None:
    sleeper, heir = start(tiny), start(tiny)
    claim = sleeper.claim()

    def overtaken(batches: int) -> None:
        if batches == 1 and heir.trials[0].state == TrialState.RUNNING:
            sleeper.claims.release(claim)
            heir.run(heir.claim())

    with pytest.raises(LeaseLost):
        sleeper.run(claim, overtaken)
    check(heir.database, tmp_path / "files", {0})
