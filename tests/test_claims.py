import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search import leases
from search.claims import Claim, Claims, Standing
from search.joining import join
from search.presence import Presence
from search.storage import Database
from search.study import REASON, Study


@pytest.fixture
def joined(database: Database, study: Study) -> optuna.Study:
    return join(database, study, "small", data_digest="x", enqueue=[{"lr": 0.02}])


class Workers:
    """Any number of workers, each with claims of its own, as processes would have."""

    def __init__(self, database: Database, joined: optuna.Study, folder: Path) -> None:
        self.database, self.joined, self.folder = database, joined, folder

    def new(self, *, budget: int = 6, lease_seconds: float = 60.0, files: str = "here") -> Claims:
        presence = Presence(self.folder / files)
        options = {"budget": budget, "lease_seconds": lease_seconds}
        return Claims(self.database, self.joined, presence, **options)  # type: ignore[arg-type]

    def end(self, claims: Claims, state: TrialState = TrialState.COMPLETE) -> int:
        """Claim a trial, end it, and return its number."""
        claim = claims.claim()
        assert isinstance(claim, Claim)
        self.joined.tell(claim.number, 0.5 if state == TrialState.COMPLETE else None, state=state)
        claims.release(claim)
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


def test_a_late_variant_goes_before_trials_that_wait(
    workers: Workers, joined: optuna.Study
) -> None:
    workers.end(workers.new(), TrialState.FAIL)
    params = joined.trials[0].system_attrs["fixed_params"]
    joined.enqueue_trial(params, user_attrs={"variant": "question-1"})
    assert [workers.end(workers.new()) for _ in range(3)] == [1, 3, 2]


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
    claim = first.claim()
    assert isinstance(claim, Claim)
    first.release(claim)
    taken = second.claim()
    assert isinstance(taken, Claim)
    assert (taken.number, taken.taken_over) == (claim.number, True)


def test_a_trial_is_taken_over_once_its_lease_has_expired(workers: Workers) -> None:
    stalled = workers.new(lease_seconds=0.3, files="of another machine")
    claim = stalled.claim()
    assert isinstance(claim, Claim)
    other = workers.new()
    before = other.claim()
    assert isinstance(before, Claim)
    assert before.number != claim.number
    time.sleep(0.4)
    taken = workers.new().claim()
    assert isinstance(taken, Claim)
    assert taken.number == claim.number
    assert not stalled.renew(claim, None)


def test_a_renewed_lease_does_not_expire(workers: Workers) -> None:
    slow = workers.new(lease_seconds=0.5)
    claim = slow.claim()
    assert isinstance(claim, Claim)
    for _ in range(4):
        time.sleep(0.2)
        assert slow.renew(claim, None)
    other = workers.new().claim()
    assert isinstance(other, Claim)
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
    elsewhere = workers.new(files="of another machine").claim()
    assert isinstance(elsewhere, Claim)
    assert elsewhere.number == 1  # it cannot know, and waits for the lease to expire
    here = workers.new()
    taken = here.claim()
    assert isinstance(taken, Claim)
    assert (taken.number, taken.taken_over) == (0, True)
    here.release(taken)
    here.leave()
    assert list((workers.folder / "here").iterdir()) == []


def test_a_trial_begun_without_a_lease_is_taken_over(
    workers: Workers, joined: optuna.Study
) -> None:
    joined.ask()  # as a worker killed between the two does
    claim = workers.new().claim()
    assert isinstance(claim, Claim)
    assert (claim.number, claim.taken_over) == (0, True)


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
from search.presence import Presence
from search.storage import Database
from search.joining import join
from search.study import load
optuna.logging.set_verbosity(optuna.logging.ERROR)
database = Database(sys.argv[1])
study = join(database, load("digits"), "digits", data_digest="x")
claims = Claims(database, study, Presence(Path(sys.argv[2])), budget=30)
while (claim := claims.claim()) is not Standing.SPENT:
    if claim is Standing.WAIT:
        continue
    print(claim.number, flush=True)
    state = random.choice((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    if "variant" in study.trials[claim.number].user_attrs:
        state = TrialState.COMPLETE
    study.tell(claim.number, 0.5 if state == TrialState.COMPLETE else None, state=state)
    claims.release(claim)
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
    claim = claims.claim()
    assert isinstance(claim, Claim)
    claims.renew(claim, 3.5)
    (lease,) = leases.leases(database, workers.joined._study_id).values()
    assert (lease.trial_id, lease.batches_per_second) == (claim.trial_id, 3.5)
