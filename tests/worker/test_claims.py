import dataclasses
import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from search.database.database import Database
from search.database.studies import join
from search.study.study import Study
from search.study.trial_attributes import REASON
from search.worker.claims import StudyGone
from tests.support.epochs import epoch
from tests.support.process import Workers, held_leases

COMPLETE, FAIL = TrialState.COMPLETE, TrialState.FAIL
EPOCH = epoch(1, test_loss=1.0, test_accuracy=0.9)


def test_variants_come_first_then_waiting_trials_then_new_ones(
    workers: Workers, joined: optuna.Study
) -> None:
    joined.enqueue_trial({"lr": 0.03})
    assert [workers.end(workers.new()) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    kinds = [(t.user_attrs or t.system_attrs) for t in joined.trials]
    assert [list(kind) for kind in kinds] == [
        ["variant"], ["variant"], ["enqueued"], ["fixed_params"], [], [],
    ]  # fmt: skip


def test_a_trial_that_a_user_enqueued_is_resumed_before_a_sampled_one(workers: Workers) -> None:
    for _ in range(2):
        workers.end(workers.new())
    sampled = workers.new()
    workers.joined.ask()  # the one that was enqueued, begun without a lease
    workers.joined.ask()
    assert workers.claim(sampled).number == 2


def test_a_worker_that_dropped_its_trial_claims_it_again(workers: Workers) -> None:
    claims = workers.new()
    assert workers.claim(claims) == workers.claim(claims)


def test_the_lease_of_a_trial_that_ended_without_it_is_removed(
    workers: Workers, joined: optuna.Study, database: Database
) -> None:
    claim = workers.claim(workers.new())
    joined.tell(claim.number, 0.5)  # and killed before the lease is ended
    other = workers.claim(workers.new())
    assert set(held_leases(database, workers.key)) == {other.number}


def test_a_released_trial_is_taken_over_at_once(workers: Workers) -> None:
    first, second = workers.new(), workers.new()
    claim = workers.claim(first)
    first.release(claim)
    taken = workers.claim(second)
    assert taken.number == claim.number


def test_a_trial_has_nothing_of_a_deleted_one_with_its_id(
    database: Database, workers: Workers, study: Study
) -> None:
    other = dataclasses.replace(study, name="other", variants={})
    theirs = Workers(database, join(database, other, data_digest="x"), other)
    claims = theirs.new(budget=1)
    claim = workers.claim(claims)
    database.record(claim, EPOCH, None, score=0.9)
    optuna.delete_study(study_name="other", storage=database.optuna)
    mine = workers.new()
    for _ in range(3):
        workers.end(mine)
    new = workers.claim(mine)
    assert database.epochs(new.study_key, new.number) == []
    database.record(new, EPOCH, None, score=0.9)
    assert database.epochs(new.study_key, new.number) == [EPOCH]
    again = Workers(database, join(database, other, data_digest="x"), other)
    assert again.key != theirs.key
    last = workers.claim(again.new(budget=1))
    assert database.epochs(last.study_key, last.number) == []


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
        ({"lr": 5.0}, "cannot be run: lr must be a number from 0.0001 to 0.1, not 5"),
        ({"lr": math.nan}, "cannot be run: lr must be a number"),
        ({"lr": "fast"}, "cannot be run: lr must be a number"),
        ({"lr": 0.01, "momentum": 0.9}, "cannot be run: unknown parameter 'momentum'; known: bn1"),
        ({"optimizer": "Lion"}, "cannot be run: optimizer must be one of SGD, "),
        ({"extra_fc": 1}, "cannot be run: extra_fc must be one of false, true, not 1"),
    ],
)
def test_an_enqueued_trial_outside_the_ranges_fails_by_name(
    workers: Workers, joined: optuna.Study, params: dict[str, object], reason: str
) -> None:
    joined.enqueue_trial(params)
    assert [workers.end(workers.new()) for _ in range(4)] == [0, 1, 2, 4]
    assert joined.trials[3].state == FAIL
    assert joined.trials[3].user_attrs[REASON].startswith(reason)


def test_a_failed_variant_of_another_tool_that_lacks_values_is_not_tried_again(
    workers: Workers, joined: optuna.Study
) -> None:
    joined.enqueue_trial({"lr": 0.02}, user_attrs={"variant": "theirs"})
    ended = [workers.end(workers.new(), FAIL if n == 2 else COMPLETE) for n in range(4)]
    assert ended == [0, 1, 3, 2], "variants come first"
    assert [trial.user_attrs.get("variant") for trial in joined.trials].count("theirs") == 1


def test_a_trial_with_parameters_of_its_own_is_left_alone(
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


def test_leases_are_read_with_their_progress(workers: Workers, database: Database) -> None:
    claims = workers.new()
    claim = workers.claim(claims)
    claims.renew(claim, 3.5)
    (lease,) = held_leases(database, workers.key).values()
    assert (lease.trial, lease.batches_per_second) == (claim.number, 3.5)
