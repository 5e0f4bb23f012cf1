import dataclasses
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from search import leases
from search.claims import ATTEMPTS, Claim, Claims, Standing
from search.epoch import Epoch
from search.joining import join
from search.outcome import Outcome
from search.presence import Presence
from search.storage import Database, LeaseLost
from search.study import Study
from search.trials import REASON, TRACEBACK

COMPLETE, FAIL = TrialState.COMPLETE, TrialState.FAIL
EPOCH = Epoch(number=1, batch_loss=1.0, test_loss=1.0, test_accuracy=0.9, seconds=2.0)


@pytest.fixture
def joined(database: Database, study: Study) -> optuna.Study:
    return join(database, study, data_digest="x", enqueue=[{"lr": 0.02}])


class Workers:
    """Any number of workers, each with claims of its own, as processes would have."""

    def __init__(self, database: Database, joined: optuna.Study, folder: Path) -> None:
        self.database, self.joined, self.folder = database, joined, folder

    def new(self, *, budget: int = 6, lease_seconds: float = 60.0, files: str = "here") -> Claims:
        presence = Presence(self.folder / files)
        options = {"budget": budget, "lease_seconds": lease_seconds}
        return Claims(self.database, self.joined, presence, **options)  # type: ignore[arg-type]

    def claim(self, claims: Claims) -> Claim:
        claim = claims.claim()
        assert isinstance(claim, Claim)
        return claim

    def end(self, claims: Claims, state: TrialState = TrialState.COMPLETE) -> int:
        """Claim a trial, end it, and return its number."""
        claim = self.claim(claims)
        claims.finish(claim, Outcome(state=state, value=0.5 if state == COMPLETE else None))
        return claim.number


@pytest.fixture
def workers(database: Database, joined: optuna.Study, tmp_path: Path) -> Workers:
    return Workers(database, joined, tmp_path / "workers")


def test_variants_come_first_then_waiting_trials_then_new_ones(
    workers: Workers, joined: optuna.Study
) -> None:
    joined.enqueue_trial({"lr": 0.03})
    assert [workers.end(workers.new()) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    kinds = [(t.user_attrs or t.system_attrs) for t in joined.trials]
    assert [list(kind) for kind in kinds] == [
        ["variant"], ["variant"], ["enqueued"], ["fixed_params"], [], [],
    ]  # fmt: skip


def test_a_variant_that_failed_runs_again_before_trials_that_wait(
    workers: Workers, joined: optuna.Study
) -> None:
    workers.end(workers.new(), FAIL)
    assert [workers.end(workers.new()) for _ in range(3)] == [1, 3, 2]
    variants = [trial for trial in joined.trials if "variant" in trial.user_attrs]
    assert [trial.user_attrs["variant"] for trial in variants] == [
        "question-1", "question-3", "question-1",
    ]  # fmt: skip
    assert variants[2].params == variants[0].params
    assert variants[2].state == COMPLETE


def test_a_variant_that_always_fails_is_given_up(workers: Workers, joined: optuna.Study) -> None:
    workers.end(workers.new())
    for _ in range(ATTEMPTS):
        workers.end(workers.new(), FAIL)
    assert joined.trials[workers.end(workers.new())].user_attrs == {"enqueued": {"lr": 0.02}}
    workers.end(workers.new())
    assert len([t for t in joined.trials if "variant" in t.user_attrs]) == 1 + ATTEMPTS


def test_of_the_trials_beyond_the_budget_variants_are_kept(
    workers: Workers, joined: optuna.Study
) -> None:
    three = [workers.new() for _ in range(3)]
    begun = [workers.claim(claims) for claims in three]
    assert [claim.number for claim in begun] == [0, 1, 2]
    for claims, claim in zip(three, begun, strict=True):
        claims.release(claim)
    assert workers.end(workers.new(budget=2)) == 0
    assert workers.end(workers.new(budget=2)) == 1
    assert joined.trials[2].state == FAIL


def test_a_worker_past_its_lease_cannot_end_the_trial(
    workers: Workers, joined: optuna.Study
) -> None:
    sleeper, heir = workers.new(lease_seconds=0.1), workers.new()
    claim = workers.claim(sleeper)
    time.sleep(0.2)
    taken = workers.claim(heir)
    assert taken == claim
    with pytest.raises(LeaseLost):
        sleeper.finish(claim, Outcome(state=FAIL, reason="mine"))
    with pytest.raises(LeaseLost):
        sleeper.crash(claim, ZeroDivisionError())
    assert joined.trials[0].state == TrialState.RUNNING
    assert joined.trials[0].user_attrs == {"variant": "question-1"}
    heir.finish(taken, Outcome(state=COMPLETE, value=0.25))
    with pytest.raises(LeaseLost):
        sleeper.finish(claim, Outcome(state=FAIL, reason="mine"))
    assert (joined.trials[0].state, joined.trials[0].value) == (COMPLETE, 0.25)


def test_a_trial_that_stops_two_workers_is_ended_as_failed(
    workers: Workers, joined: optuna.Study
) -> None:
    for _ in range(2):
        claims = workers.new()
        claim = workers.claim(claims)
        assert claim.number == 0
        assert joined.trials[0].state == TrialState.RUNNING
        claims.crash(claim, ZeroDivisionError("division by zero"))
    trial = joined.trials[0]
    assert trial.state == FAIL
    assert trial.user_attrs[REASON] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in trial.user_attrs[TRACEBACK]
    assert workers.end(workers.new()) == 1


def test_a_worker_that_dropped_its_trial_claims_it_again(workers: Workers) -> None:
    claims = workers.new()
    assert workers.claim(claims) == workers.claim(claims)


def test_the_lease_of_a_trial_that_ended_without_it_is_removed(
    workers: Workers, joined: optuna.Study, database: Database
) -> None:
    claim = workers.claim(workers.new())
    joined.tell(claim.number, 0.5)  # and killed before the lease is ended
    other = workers.claim(workers.new())
    assert set(leases.leases(database, joined._study_id)) == {other.trial_id}


def test_the_budget_counts_complete_and_pruned_trials_and_no_failed_ones(workers: Workers) -> None:
    claims = workers.new(budget=3)
    for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE):
        workers.end(claims, state)
    assert claims.claim() is Standing.SPENT
    assert isinstance(workers.new(budget=4).claim(), Claim)


def test_no_worker_starts_a_trial_beyond_the_budget(workers: Workers) -> None:
    three = [workers.new(budget=2) for _ in range(3)]
    assert [type(claims.claim()) for claims in three] == [Claim, Claim, Standing]
    assert three[2].claim() is Standing.WAIT


def test_a_released_trial_is_taken_over_at_once(workers: Workers) -> None:
    first, second = workers.new(), workers.new()
    claim = workers.claim(first)
    first.release(claim)
    taken = workers.claim(second)
    assert taken.number == claim.number


def test_a_trial_is_taken_over_once_its_lease_has_expired(workers: Workers) -> None:
    stalled = workers.new(lease_seconds=0.3, files="of another machine")
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
from pathlib import Path
import optuna
from search.claims import Claims
from search.presence import Presence
from search.storage import Database
database = Database(sys.argv[1])
study = optuna.load_study(study_name="small", storage=database.optuna)
print(Claims(database, study, Presence(Path(sys.argv[2])), budget=6).claim().number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_workers_trial_is_free_at_once_for_those_who_share_its_files(
    url: str, workers: Workers
) -> None:
    command = [sys.executable, "-c", KILLED, url, str(workers.folder / "here")]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (killed.returncode, killed.stdout) == (-9, "0\n"), killed.stderr
    workers.new().leave()  # and keeps what tells of the killed one
    elsewhere = workers.claim(workers.new(files="of another machine"))
    assert elsewhere.number == 1  # it cannot know, and waits for the lease to expire
    here = workers.new()
    taken = workers.claim(here)
    assert taken.number == 0
    here.release(taken)
    here.leave()
    assert list((workers.folder / "here").iterdir()) == []


def test_a_worker_that_leaves_while_the_database_is_away_is_known_to_be_gone(
    database: Database, workers: Workers
) -> None:
    left = workers.new()
    assert workers.claim(left).number == 0
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE search_leases RENAME TO away"))
    with pytest.raises(DBAPIError):
        left.leave()
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO search_leases"))
    assert workers.claim(workers.new()).number == 0


def test_a_trial_has_nothing_of_the_trial_of_a_deleted_study_that_had_its_id(
    database: Database, workers: Workers, joined: optuna.Study, study: Study
) -> None:
    other = dataclasses.replace(study, name="other", variants={})
    deleted = join(database, other, data_digest="x")
    claims = Claims(database, deleted, Presence(workers.folder / "other"), budget=1)
    claim = workers.claim(claims)
    database.record(claim.trial_id, claims._presence.worker, EPOCH, None)
    optuna.delete_study(study_name="other", storage=database.optuna)
    mine = workers.new()
    for _ in range(3):
        workers.end(mine)
    new = workers.claim(mine)
    assert database.epochs(new.trial_id) == []
    mine.record(new, EPOCH, None)
    assert database.epochs(new.trial_id) == [EPOCH]


def test_a_trial_begun_without_a_lease_is_taken_over(
    workers: Workers, joined: optuna.Study
) -> None:
    joined.ask()  # as a worker killed between the two does
    claim = workers.claim(workers.new())
    assert claim.number == 0


def test_what_is_left_beyond_the_budget_is_ended_as_failed(
    workers: Workers, joined: optuna.Study
) -> None:
    for _ in range(3):
        joined.ask()
    claims = workers.new(budget=2)
    assert [workers.end(claims), workers.end(claims)] == [0, 1]
    assert claims.claim() is Standing.SPENT
    assert joined.trials[2].state == TrialState.FAIL
    assert joined.trials[2].user_attrs[REASON] == "interrupted, and beyond the budget of 2"


CLAIMING = """
import random, sys
from pathlib import Path
import optuna
from optuna.trial import TrialState
from search.claims import Claims, Standing
from search.outcome import Outcome
from search.presence import Presence
from search.storage import Database
from search.joining import join
from search.study import load
optuna.logging.set_verbosity(optuna.logging.ERROR)
database = Database(sys.argv[1])
study = join(database, load("digits"), data_digest="x")
claims = Claims(database, study, Presence(Path(sys.argv[2])), budget=30)
while (claim := claims.claim()) is not Standing.SPENT:
    if claim is Standing.WAIT:
        continue
    print(claim.number, flush=True)
    state = random.choice((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    if "variant" in study.trials[claim.number].user_attrs:
        state = TrialState.COMPLETE
    value = 0.5 if state == TrialState.COMPLETE else None
    claims.finish(claim, Outcome(state=state, value=value))
"""


def test_processes_started_together_run_each_variant_once_and_meet_the_budget(
    url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", CLAIMING, url, str(tmp_path / "workers")]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    claimed: Counter[str] = Counter()
    for process in started:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        claimed.update(output.split())
    database = Database(url)
    trials = optuna.load_study(study_name="digits", storage=database.optuna).trials
    database.close()
    assert set(claimed.values()) == {1}
    assert len(claimed) == len(trials)
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == 30
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    variants = Counter(t.user_attrs["variant"] for t in trials if "variant" in t.user_attrs)
    assert len(variants) == 6
    assert set(variants.values()) == {1}


def test_leases_are_read_with_their_progress(workers: Workers, database: Database) -> None:
    claims = workers.new()
    claim = workers.claim(claims)
    claims.renew(claim, 3.5)
    (lease,) = leases.leases(database, workers.joined._study_id).values()
    assert (lease.trial_id, lease.batches_per_second) == (claim.trial_id, 3.5)
