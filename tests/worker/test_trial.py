"""Trials run to their ends, on digits, by objects that stand for processes of their own."""

import dataclasses
import itertools
import random
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.pool import NullPool

from search.database import leases
from search.database.database import Database, LeaseLost
from search.database.optuna_internals import study_id, trial_id
from search.database.studies import files_of, join
from search.study.choices import RANGES, Value
from search.study.study import Study
from search.study.trial_attributes import CUTOFF, ENVIRONMENTS, FINISHED, REASON, RUNG, TRACEBACK
from search.worker.claims import Claim
from search.worker.replay import train_again
from search.worker.result import Outcome
from search.worker.worker import KeepsFailing
from tests.support.process import Killed, Start, killed_at


def test_a_variant_runs_to_its_end_and_is_recorded(start: Start, tmp_path: Path) -> None:
    process = start()
    process.run(process.claim())
    (trial, *_) = process.trials
    epochs = process.database.epochs(process.ref.key, trial.number)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert all(epoch.train_accuracy is not None for epoch in epochs)
    assert trial.state == TrialState.COMPLETE
    assert trial.value == epochs[-1].test_accuracy
    assert trial.intermediate_values == {e.number: e.test_accuracy for e in epochs}
    assert leases.leases(process.database, process.ref.key) == {}
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


def test_of_two_workers_that_draw_values_for_one_trial_the_first_ones_are_trained(
    start: Start, study: Study, url: str
) -> None:
    class Late(optuna.samplers.RandomSampler):
        """Draws a learning rate when another worker has just written one."""

        def sample_independent(
            self,
            study: optuna.Study,
            trial: FrozenTrial,
            param_name: str,
            param_distribution: optuna.distributions.BaseDistribution,
        ) -> Any:
            if param_name == "lr":
                other = Database(url)
                other.optuna.get_all_trials(study_id(study))
                other.optuna.set_trial_param(trial_id(trial), "lr", 0.0123, param_distribution)
                other.close()
            return super().sample_independent(study, trial, param_name, param_distribution)

    study = dataclasses.replace(study, variants={}, sampler=Late)
    process = start(study)
    process.run(process.claim())
    (trial,) = process.trials
    assert trial.params["lr"] == 0.0123
    recorded = process.database.epochs(process.ref.key, trial.number)
    machine = process.machine
    again = train_again(study, trial, recorded, machine, print, lambda batches: None)
    assert again.is_same


def test_a_trial_that_diverged_at_once_is_replayed_with_what_was_measured(
    start: Start, study: Study
) -> None:
    # A single batch, so that the first loss after a step is train_loss.
    ranges = {**RANGES, "lr": FloatDistribution(1e29, 1e30, log=True)}
    study = dataclasses.replace(study, variants={}, ranges=ranges, images=32)
    process = start(study, measure_train=True)
    process.run(process.claim())
    (trial,) = process.trials
    assert trial.user_attrs[REASON] == "train_loss is nan in epoch 1"
    said: list[str] = []
    machine = process.machine
    again = train_again(study, trial, [], machine, said.append, lambda batches: None)
    assert again.is_same
    assert said == ["[0] train_loss is nan in epoch 1"]


@pytest.mark.parametrize("first", [True, False])
def test_a_trial_is_measured_as_it_was_begun_whoever_takes_it_over(
    start: Start, study: Study, first: bool
) -> None:
    study = dataclasses.replace(study, variants={})
    begun = start(study, measure_train=first)
    with pytest.raises(Killed):
        begun.run(begun.claim(), killed_at(14 if first else 12))  # in the second epoch
    other = start(study, measure_train=not first)
    other.run(other.claim())
    recorded = other.database.epochs(other.ref.key, 0)
    assert len(recorded) > 1
    assert [epoch.train_loss is not None for epoch in recorded] == [first] * len(recorded)
    machine = other.machine
    (trial,) = other.trials
    assert train_again(study, trial, recorded, machine, print, lambda batches: None).is_same


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
    noted = process.trials[0].user_attrs[ENVIRONMENTS]
    assert [(found["threads"], found["precision"]) for found in noted] == [
        (2, "float32"),
        (1, "float32"),
    ]


def test_a_worker_without_memory_for_a_thread_does_not_wait_for_it(
    start: Start, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(thread: threading.Thread) -> None:
        raise MemoryError  # as it begins, before it has told that it has

    process = start(dataclasses.replace(study, trials=1))
    monkeypatch.setattr(threading.Thread, "_bootstrap", die)
    process.work()
    assert process.trials[0].state == TrialState.COMPLETE


def test_sampled_trials_are_pruned_with_their_reason_and_variants_are_not(start: Start) -> None:
    process = start()
    process.work()
    assert len(process.trials) == 6
    variants = process.trials[:2]
    assert [trial.state for trial in variants] == [TrialState.COMPLETE] * 2
    pruned = [trial for trial in process.trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        assert "at epoch 1, cut-off" in trial.user_attrs[REASON]
        assert trial.user_attrs[RUNG] == 1
        better = [t.intermediate_values[1] for t in process.trials[: trial.number]]
        assert trial.user_attrs[CUTOFF] in better
        assert trial.value < trial.user_attrs[CUTOFF]
        (epoch,) = process.database.epochs(process.ref.key, trial.number)
        assert trial.value == epoch.test_accuracy
        assert epoch.train_accuracy is None


@pytest.mark.parametrize("calls", [2, 8, 11, 23])
def test_a_killed_trial_goes_on_after_its_last_epoch_with_the_figures_it_would_have_had(
    start: Start, calls: int, tmp_path: Path
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.run(whole.claim())
    killed, heir = start(), start()
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(calls))
    begun = len(killed.figures()[0])
    counts: list[int] = []
    heir.run(heir.claim(), counts.append)
    # Five batches of training and three of evaluation an epoch.
    assert sum(count == 1 for count in counts) == 4 - begun
    assert heir.figures()[0] == whole.figures()[0]
    assert heir.trials[0].value == whole.trials[0].value
    assert heir.trials[0].params == whole.trials[0].params


def test_without_its_checkpoint_a_trial_starts_again_with_the_same_figures(
    start: Start, tmp_path: Path
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.run(whole.claim())
    killed = start()
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(18))
    (checkpoint,) = (tmp_path / "files").glob("*-*-*-*")  # which weights are not
    checkpoint.write_bytes(b"damaged")
    heir = start()
    heir.run(heir.claim())
    assert heir.figures()[0] == whole.figures()[0]


def test_a_trial_killed_between_its_epoch_and_its_pruning_is_pruned_by_its_heir(
    start: Start, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = dataclasses.replace(study, variants={}, trials=10)
    process = start(without)

    def killed(self: object, *arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Outcome, "pruned", killed)
        with pytest.raises(Killed):
            process.work()
    (left,) = [trial for trial in process.trials if trial.state == TrialState.RUNNING]
    heir = start(without)
    claim = heir.claim()
    assert claim.number == left.number
    counts: list[int] = []
    heir.run(claim, counts.append)
    assert counts == []  # nothing was trained
    assert heir.trials[left.number].state == TrialState.PRUNED


def test_a_diverging_trial_is_pruned_in_its_epoch_with_its_reason(
    start: Start, study: Study
) -> None:
    ranges = {**RANGES, "lr": optuna.distributions.FloatDistribution(1e18, 1e20, log=True)}
    process = start(dataclasses.replace(study, variants={}, ranges=ranges, trials=3))
    process.work()
    reasons = [trial.user_attrs[REASON] for trial in process.trials]
    diverged = [reason for reason in reasons if "is nan" in reason or "is inf" in reason]
    assert diverged
    assert all("in epoch 1" in reason for reason in diverged)
    assert {trial.state for trial in process.trials} == {TrialState.PRUNED}


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


def test_a_worker_whose_trial_another_has_ended_drops_it_without_harm(start: Start) -> None:
    sleeper, heir = start(), start()
    claim = sleeper.claim()
    calls: list[int] = []

    def overtaken(batches: int) -> None:
        calls.append(batches)
        if len(calls) == 20:  # in the last epoch
            sleeper.claims.release(claim)
            heir.run(heir.claim())

    with pytest.raises(LeaseLost):
        sleeper.run(claim, overtaken)
    assert [epoch["number"] for epoch in heir.figures()[0]] == [1, 2, 3, 4]
    assert heir.trials[0].state == TrialState.COMPLETE


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every hidden layer be of a size that no machine has the memory for."""
    monkeypatch.setattr("search.vision.network.HIDDEN", 10**13)


@pytest.mark.usefixtures("no_room")
def test_trials_that_keep_failing_stop_the_worker(start: Start) -> None:
    process = start()
    with pytest.raises(KeepsFailing, match=r"trial 2: .*can't allocate memory.*$"):
        process.work()
    failed = [trial for trial in process.trials if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["variant"] for trial in failed] == [
        "question-1", "question-3", "question-1",
    ]  # fmt: skip
    assert "can't allocate memory" in failed[0].user_attrs[REASON]
    assert "make_network" in failed[0].user_attrs[TRACEBACK]
    assert leases.leases(process.database, process.ref.key) == {}


def test_a_variant_that_failed_for_a_while_still_completes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    with monkeypatch.context() as patch:
        patch.setattr("search.vision.network.HIDDEN", 10**13)
        process.run(process.claim())
    process.work()
    assert process.trials[0].state == TrialState.FAIL
    complete = [trial for trial in process.trials if trial.state == TrialState.COMPLETE]
    assert [t.user_attrs["variant"] for t in complete if "variant" in t.user_attrs] == [
        "question-3", "question-1",
    ]  # fmt: skip
    assert len([trial for trial in process.trials if trial.state in FINISHED]) == 6


def test_an_unknown_error_stops_the_worker_and_leaves_the_trial_to_one_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *arguments: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    with monkeypatch.context() as patch:
        patch.setattr("search.vision.training.Training.fit", broken)
        for state in (TrialState.RUNNING, TrialState.FAIL):
            process = start()
            with pytest.raises(ZeroDivisionError):
                process.work()
            assert process.trials[0].state == state
    assert process.trials[0].user_attrs[REASON] == "ZeroDivisionError: division by zero"
    start().claim()
    assert process.trials[2].user_attrs == {"variant": "question-1"}  # once more


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_search_survives_connections_that_are_cut_at_any_statement(
    start: Start, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.worker.worker.WAIT_SECONDS", 0.05)
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.work()
    process = start()
    cutter = create_engine(url, poolclass=NullPool)
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    draw = random.Random(seed)
    statements, cuts = itertools.count(1), [draw.randint(20, 120)]

    def cut(connection: Connection, *rest: object) -> None:
        number = next(statements)
        if number == cuts[-1]:
            backend = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            with cutter.connect() as other:
                other.execute(text(f"SELECT pg_terminate_backend({backend}, 5000)"))
            cuts.append(number + draw.randint(20, 120))

    event.listen(process.database.engine, "before_cursor_execute", cut)
    process.work()
    event.remove(process.database.engine, "before_cursor_execute", cut)
    assert len(cuts) > 5
    assert process.figures() == whole.figures()
    assert [t.state for t in process.trials] == [t.state for t in whole.trials]


def test_without_room_for_checkpoints_a_trial_runs_all_the_same(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start()
    (tmp_path / "files").touch()  # a file where the folder is to be
    process.run(process.claim())
    assert process.trials[0].state == TrialState.COMPLETE
    assert "no checkpoint written" in caplog.text


def test_selecting_on_validation_prunes_on_it_and_measures_test_once(
    start: Start, study: Study
) -> None:
    process = start(dataclasses.replace(study, select="validation"))
    process.run(process.claim())
    trial = process.trials[0]
    epochs = process.database.epochs(process.ref.key, trial.number)
    assert [epoch.test_accuracy is None for epoch in epochs] == [True, True, True, False]
    assert trial.value == epochs[-1].validation_accuracy != epochs[-1].test_accuracy


def test_a_spent_time_limit_stops_within_a_batch(start: Start) -> None:
    process = start()
    process.work(deadline=0.0)
    assert {trial.state for trial in process.trials} == {TrialState.WAITING}


def test_a_trial_with_values_that_a_user_asked_for_is_never_pruned(
    start: Start, study: Study
) -> None:
    poor: dict[str, Value] = {"optimizer": "SGD", "lr": 1e-4, "bn1": "off", "bn2": "off"}
    process = start(dataclasses.replace(study, trials=8))
    join(process.database, study, data_digest=process.worker.machine.data_digest, given=[poor])
    process.joined.enqueue_trial(dict(poor))  # as anyone can with Optuna alone
    process.work()
    asked = [t for t in process.trials if t.params.items() >= poor.items()]
    assert [trial.state for trial in asked] == [TrialState.COMPLETE] * 2
    values = [trial.intermediate_values[1] for trial in process.trials]
    assert all(trial.intermediate_values[1] < sorted(values)[-2] for trial in asked)
