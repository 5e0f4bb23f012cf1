import dataclasses
import math
import signal
import subprocess
import sys
import time
from collections import Counter

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from search.database import leases
from search.database.database import Database, LeaseLost
from search.database.identity import study_ref
from search.database.leases import Holder
from search.database.liveness import ProcessIdentity
from search.database.studies import join
from search.study.choices import RANGES
from search.study.epoch import Epoch
from search.study.study import Study
from search.study.trial_attributes import REASON, TRACEBACK
from search.worker.claims import ATTEMPTS, Claim, Claims, Standing, StudyGone
from search.worker.result import Outcome

COMPLETE, FAIL = TrialState.COMPLETE, TrialState.FAIL
EPOCH = Epoch(number=1, batch_loss=1.0, test_loss=1.0, test_accuracy=0.9, seconds=2.0)


@pytest.fixture
def joined(database: Database, study: Study) -> optuna.Study:
    return join(database, study, data_digest="x", given=[{"lr": 0.02}])


ELSEWHERE = ProcessIdentity(host="another-host", pid=1, started=0.0)


class Workers:
    """Any number of workers, each with claims of its own, as processes would have."""

    def __init__(self, database: Database, joined: optuna.Study) -> None:
        self.database, self.joined = database, joined
        self.key = study_ref(joined).key

    def new(
        self,
        *,
        budget: int = 6,
        lease_seconds: float = 60.0,
        process: ProcessIdentity | None = None,
    ) -> Claims:
        return Claims(
            self.database,
            self.joined,
            ranges=RANGES,
            budget=budget,
            lease_seconds=lease_seconds,
            holder=Holder() if process is None else Holder(process=process),
        )

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
def workers(database: Database, joined: optuna.Study) -> Workers:
    return Workers(database, joined)


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


def test_a_smaller_budget_leaves_interrupted_trials_for_a_larger_one(
    workers: Workers, joined: optuna.Study
) -> None:
    three = [workers.new() for _ in range(3)]
    begun = [workers.claim(claims) for claims in three]
    assert [claim.number for claim in begun] == [0, 1, 2]
    for claims, claim in zip(three, begun, strict=True):
        claims.release(claim)
    assert [workers.end(workers.new(budget=2)) for _ in range(2)] == [0, 1]
    assert workers.new(budget=2).claim() is Standing.SPENT
    assert joined.trials[2].state == TrialState.RUNNING
    assert joined.trials[2].user_attrs == {"enqueued": {"lr": 0.02}}
    assert workers.end(workers.new(budget=3)) == 2


def test_a_trial_that_a_user_enqueued_is_resumed_before_a_sampled_one(workers: Workers) -> None:
    for _ in range(2):
        workers.end(workers.new())
    sampled = workers.new()
    workers.joined.ask()  # the one that was enqueued, begun without a lease
    workers.joined.ask()
    assert workers.claim(sampled).number == 2


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
    assert set(leases.leases(database, workers.key)) == {other.number}


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
from search.study.choices import RANGES
from search.worker.claims import Claims
from search.database.database import Database
database = Database(sys.argv[1])
study = optuna.load_study(study_name="small", storage=database.optuna)
print(Claims(database, study, ranges=RANGES, budget=6).claim().number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


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


def test_a_worker_of_another_host_is_known_to_be_dead_by_its_lease_alone(workers: Workers) -> None:
    workers.claim(workers.new(process=ELSEWHERE))
    assert workers.claim(workers.new()).number == 1


def test_a_trial_has_nothing_of_the_trial_of_a_deleted_study_that_had_its_id(
    database: Database, workers: Workers, study: Study
) -> None:
    other = dataclasses.replace(study, name="other", variants={})
    theirs = Workers(database, join(database, other, data_digest="x"))
    claims = theirs.new(budget=1)
    claim = workers.claim(claims)
    claims.record(claim, EPOCH, None)
    optuna.delete_study(study_name="other", storage=database.optuna)
    mine = workers.new()
    for _ in range(3):
        workers.end(mine)
    new = workers.claim(mine)
    assert mine.epochs(new) == []
    mine.record(new, EPOCH, None)
    assert mine.epochs(new) == [EPOCH]
    again = Workers(database, join(database, other, data_digest="x"))
    assert again.key != theirs.key
    claims = again.new(budget=1)
    assert claims.epochs(workers.claim(claims)) == []


def test_a_study_that_is_deleted_or_renamed_meanwhile_stops_its_workers(
    database: Database, workers: Workers
) -> None:
    claims = workers.new()
    claim = workers.claim(claims)
    optuna.delete_study(study_name="small", storage=database.optuna)
    with pytest.raises(StudyGone, match="'small' was deleted or renamed"):
        claims.claim()
    with pytest.raises(StudyGone):
        claims.crash(claim, KeyError("no trial with trial-id 1 found"))


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"lr": 5.0}, "cannot be run: lr is a number from 0.0001 to 0.1, not 5"),
        ({"lr": math.nan}, "cannot be run: lr is a number"),
        ({"lr": "fast"}, "cannot be run: lr is a number"),
        ({"lr": 0.01, "momentum": 0.9}, "cannot be run: unknown parameter 'momentum'; known: bn1"),
        ({"optimizer": "Lion"}, "cannot be run: optimizer is one of SGD, "),
        ({"extra_fc": 1}, "cannot be run: extra_fc is one of false, true, not 1"),
    ],
)
def test_a_trial_enqueued_by_optuna_alone_with_values_the_study_has_not_is_failed_by_name(
    workers: Workers, joined: optuna.Study, params: dict[str, object], reason: str
) -> None:
    joined.enqueue_trial(params)
    assert [workers.end(workers.new()) for _ in range(4)] == [0, 1, 2, 4]
    assert joined.trials[3].state == FAIL
    assert joined.trials[3].user_attrs[REASON].startswith(reason)


def test_a_trial_that_somebody_else_runs_with_parameters_of_their_own_is_left_alone(
    workers: Workers, database: Database
) -> None:
    theirs = optuna.load_study(study_name="small", storage=database.optuna)
    for _ in range(3):
        workers.end(workers.new())
    trial = theirs.ask({"x": FloatDistribution(0, 1)})
    odd = theirs.ask({"lr": CategoricalDistribution((0.01, 0.02))})
    assert workers.end(workers.new()) == odd.number + 1
    theirs.tell(trial, 0.5)
    theirs.tell(odd, 0.5)


def test_a_trial_begun_without_a_lease_is_taken_over(
    workers: Workers, joined: optuna.Study
) -> None:
    joined.ask()  # as a worker killed between the two does
    claim = workers.claim(workers.new())
    assert claim.number == 0


CLAIMING = """
import random, sys
import optuna
from optuna.trial import TrialState
from search.worker.claims import Claims, Standing
from search.worker.result import Outcome
from search.study.choices import RANGES
from search.database.database import Database
from search.database.studies import join
from search.study.study import load
optuna.logging.set_verbosity(optuna.logging.ERROR)
database = Database(sys.argv[1])
study = join(database, load("digits"), data_digest="x")
claims = Claims(database, study, ranges=RANGES, budget=30)
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
    url: str,
) -> None:
    command = [sys.executable, "-c", CLAIMING, url]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    claimed: Counter[str] = Counter()
    for process in started:
        output, errors = process.communicate(timeout=250)
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
    (lease,) = leases.leases(database, workers.key).values()
    assert (lease.trial, lease.batches_per_second) == (claim.number, 3.5)
