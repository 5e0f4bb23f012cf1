"""Trials run to their ends, on digits, by objects that stand for processes of their own."""

import dataclasses
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from search.database.leases import LeaseLost
from search.database.studies import files_of, join
from search.study.space import Value
from search.study.study import Study
from search.study.trial_attributes import CUTOFF, REASON, RUNG, environments
from search.worker.result import Outcome
from tests.support.process import Killed, Start, held_leases, killed_at


def test_a_variant_runs_to_its_end_and_is_recorded(start: Start, tmp_path: Path) -> None:
    process = start()
    process.run(process.claim())
    (trial, *_) = process.trials
    epochs = process.database.epochs(process.ref.key, trial.number)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert all("train_accuracy" in epoch.metrics for epoch in epochs)
    assert trial.state == TrialState.COMPLETE
    assert trial.value == epochs[-1].metrics["test_accuracy"]
    assert trial.intermediate_values == {e.number: e.metrics["test_accuracy"] for e in epochs}
    assert held_leases(process.database, process.ref.key) == {}
    (weights,) = (tmp_path / "files").iterdir()  # and no checkpoint
    assert weights.name.startswith(f"{files_of(process.database, process.ref)}-0-")


def test_a_variant_that_another_process_enqueued_again_runs(start: Start) -> None:
    first, second = start(), start()
    for _ in range(2):
        failed = Outcome(state=TrialState.FAIL, reason="no memory")
        second.claims.finish(second.claim(), failed)
    other = second.claim()
    mine = first.claim()
    first.run(mine)
    (trial,) = (trial for trial in first.trials if trial.number == mine.number)
    assert (trial.state, mine.number, other.number) == (TrialState.COMPLETE, 3, 2)


def test_the_environment_that_a_trial_was_last_trained_in_stands_last(
    start: Start, study: Study
) -> None:
    machine = start().machine
    for threads in (1, 2, 1):
        process = start(
            machine=dataclasses.replace(
                machine, environment={**machine.environment, "threads": threads}
            )
        )
        with pytest.raises(Killed):
            process.run(process.claim(), killed_at(2))
    (trial,) = process.trials[:1]
    assert [(found["threads"], found["precision"]) for found in environments(trial)] == [
        (2, "float32"),
        (1, "float32"),
    ]


def test_a_trials_user_attributes_tell_its_last_environment_in_short_values(start: Start) -> None:
    machine = start().machine
    first = {"variant": "question-1", "code": machine.environment["code"]}
    first |= {"precision": "float32", "torch": torch.__version__}
    cpu = {"device": machine.environment["device"], "threads": 1}
    cuda = {"device": "NVIDIA H100", "threads": None, "cuda": "13.0"}
    for where in (cpu, cuda, cpu):
        environment = {**machine.environment, **where}
        process = start(machine=dataclasses.replace(machine, environment=environment))
        with pytest.raises(Killed):
            process.run(process.claim(), killed_at(2))
        told = {name: value for name, value in where.items() if value is not None}
        assert process.trials[0].user_attrs == first | told


def test_a_worker_that_lost_its_trial_notes_no_environment(start: Start) -> None:
    process = start()
    claim = process.claim()
    process.claims.release(claim)
    with pytest.raises(LeaseLost):
        process.run(claim)
    assert environments(process.trials[0]) == []
    assert process.trials[0].user_attrs == {"variant": "question-1"}


def test_sampled_trials_are_pruned_with_their_reason_and_variants_are_not(start: Start) -> None:
    process = start()
    process.work()
    assert len(process.trials) == 6
    variants = process.trials[:2]
    assert [trial.state for trial in variants] == [TrialState.COMPLETE] * 2
    pruned = [trial for trial in process.trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        assert trial.user_attrs[REASON].startswith(f"test accuracy {trial.value:.4f} at epoch 1, ")
        assert trial.user_attrs[RUNG] == 1
        better = [t.intermediate_values[1] for t in process.trials[: trial.number]]
        assert trial.user_attrs[CUTOFF] in better
        assert trial.value < trial.user_attrs[CUTOFF]
        (epoch,) = process.database.epochs(process.ref.key, trial.number)
        assert trial.value == epoch.metrics["test_accuracy"]
        assert "train_accuracy" not in epoch.metrics


def test_selecting_on_validation_prunes_on_it_and_measures_test_once(
    start: Start, study: Study
) -> None:
    process = start(study.select("validation"))
    process.run(process.claim())
    trial = process.trials[0]
    epochs = process.database.epochs(process.ref.key, trial.number)
    assert ["test_accuracy" in epoch.metrics for epoch in epochs] == [False, False, False, True]
    last = epochs[-1].metrics
    assert trial.value == last["validation_accuracy"] != last["test_accuracy"]


def test_a_spent_time_limit_stops_within_a_batch(start: Start) -> None:
    process = start()
    process.work(deadline=0.0)
    assert {trial.state for trial in process.trials} == {TrialState.WAITING}


def test_a_trial_with_values_that_a_user_asked_for_is_never_pruned(
    start: Start, study: Study
) -> None:
    poor: dict[str, Value] = {"optimizer": "SGD", "lr": 1e-4, "bn1": "off", "bn2": "off"}
    process = start(dataclasses.replace(study, trials=8))
    session = process.worker.machine.session
    join(
        process.database,
        study,
        data_digest=session.digest,
        precision=session.precision,
        given=[poor],
    )
    process.joined.enqueue_trial(dict(poor))  # as anyone can with Optuna alone
    process.work()
    asked = [t for t in process.trials if t.params.items() >= poor.items()]
    assert [trial.state for trial in asked] == [TrialState.COMPLETE] * 2
    values = [trial.intermediate_values[1] for trial in process.trials]
    assert all(trial.intermediate_values[1] < sorted(values)[-2] for trial in asked)
