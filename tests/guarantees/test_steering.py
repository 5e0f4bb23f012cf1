"""A user stops, pauses and cancels what workers do, wherever they run, and nothing is lost."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.pruners import NopPruner
from optuna.trial import TrialState

from search.analysis.savings import Savings
from search.database import steering
from search.database.database import Database
from search.database.leases import n_at_work
from search.database.snapshot import Observer
from search.database.studies import study_called
from search.errors import UserError
from search.reporting.commands import Commands
from search.reporting.report_data import ReportData
from search.reporting.status import count_text, study_row
from search.reporting.tables import counts
from search.study.metrics import Metrics
from search.study.study import Study
from search.worker import worker
from search.worker.claims import Standing
from search.worker.stop import Stop
from tests.support.commands import Command, Run, until
from tests.support.curves import HALVING, Choices, Curve, value
from tests.support.curves import study as curves
from tests.support.process import Process, Start, held_leases

ENDLESS = ("--study", "digits", "--images", 160, "--epochs", 500, "--trials", 30)


@pytest.fixture
def study() -> Study:
    return curves


def _at_work(url: str, name: str) -> int:
    database = Database(url)
    study = study_called(database, name)
    with database.engine.connect() as connection:
        found = n_at_work(connection, study.key)
    database.close()
    return found


def _n_epochs(url: str, name: str) -> int:
    database = Database(url)
    epochs = database.epochs_of_study(study_called(database, name).key)
    database.close()
    return sum(map(len, epochs.values()))


def test_a_trial_of_a_worker_that_is_gone_is_told_as_interrupted(start: Start) -> None:
    held, gone = start(), start(lease_seconds=0.0)
    running = held.claim()
    gone.claim()
    overview = Observer(held.database, held.joined).look()
    assert [trial.number for trial in overview.running] == [running.number]
    assert study_row(held.database, "curves")["state"] == "1 running, 1 interrupted"
    held.claims.release(running)
    assert study_row(held.database, "curves")["state"] == "not running, 2 interrupted"


def test_a_stop_reaches_the_workers_of_all_commands_and_the_search_resumes(
    url: str, tmp_path: Path, search: Command
) -> None:
    storage = "--storage", url
    with (
        Run(tmp_path, "search.run", *ENDLESS, *storage, "--workers", 2) as first,
        Run(tmp_path, "search.run", *ENDLESS, *storage) as second,
    ):
        until(lambda: "EPOCH" in first.output + second.output and _at_work(url, "digits") == 3)
        done = search("search.__main__", "stop", "digits", *storage)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "The workers of digits are asked to stop; 3 of them are running a trial.\n"
        )
        for run in (first, second):
            assert run.end(60) == 0, run.errors
            assert (
                "Stopped by `python -m search stop`; run the same command to resume." in run.output
            )
    before = _n_epochs(url, "digits")
    assert _at_work(url, "digits") == 0
    with Run(tmp_path, "search.run", *ENDLESS, *storage) as third:
        third.until("resumes after epoch")
        until(lambda: _n_epochs(url, "digits") > before)


def test_paused_workers_wait_and_go_on(url: str, tmp_path: Path, search: Command) -> None:
    storage = "--storage", url
    with Run(tmp_path, "search.run", *ENDLESS, *storage) as run:
        run.until("EPOCH")
        assert search("search.__main__", "pause", "digits", *storage).returncode == 0
        until(lambda: _at_work(url, "digits") == 0)
        before = _n_epochs(url, "digits")
        shown = search("search.__main__", "status", "digits", *storage).stdout
        assert "paused, 0 running" in shown
        with Run(tmp_path, "search.run", *ENDLESS, *storage) as late:
            late.until("It is paused")
            time.sleep(2 * worker.WAIT_SECONDS)
            assert _n_epochs(url, "digits") == before
            assert search("search.__main__", "resume", "digits", *storage).returncode == 0
            until(lambda: _at_work(url, "digits") == 2)
            until(lambda: _n_epochs(url, "digits") > before)


class Held(Curve):
    """Trains batches without an end after the first epoch, until it is let go."""

    go = threading.Event()

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        for metrics in super().fit(after):
            yield metrics
            while not self.go.wait(0.005):
                self.run.after_batch(1)


held = replace(curves, train=Held, trials=4, pruner=NopPruner())


@pytest.fixture
def working(start: Start, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A process whose worker is in the second epoch of its first trial."""
    monkeypatch.setattr(worker, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(worker, "WAIT_SECONDS", 0.02)
    Held.go.clear()
    process, stop = start(held), Stop()
    thread = threading.Thread(
        target=process.worker.work, args=(stop,), kwargs={"budget": held.budget}
    )
    thread.start()
    until(lambda: _n_recorded(process) == 1)
    try:
        yield process
    finally:
        stop.ask()
        Held.go.set()
        thread.join()


def _n_recorded(process: Process) -> int:
    return sum(map(len, process.database.epochs_of_study(process.ref.key).values()))


def _states(process: Process) -> list[TrialState]:
    trials = process.database.uncached.get_all_trials(process.ref.study_id)
    return [trial.state for trial in trials]


def _is_done(process: Process) -> bool:
    return process.claims.is_spent(held.budget) and not _held(process)


def _held(process: Process) -> set[int]:
    return set(held_leases(process.database, process.ref.key))


def test_a_paused_trial_is_left_within_a_batch_and_has_the_same_metrics(
    working: Process, start: Start, tmp_path: Path
) -> None:
    steering.pause(working.database, working.ref, is_paused=True)
    until(lambda: not _held(working))
    assert (_n_recorded(working), _states(working)) == (1, [TrialState.RUNNING])
    Held.go.set()
    steering.pause(working.database, working.ref, is_paused=False)
    until(lambda: _is_done(working))
    undisturbed = start(held, url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    undisturbed.work()
    assert working.figures() == undisturbed.figures()


def test_a_running_trial_that_is_canceled_is_left_within_a_batch(working: Process) -> None:
    (running,) = _held(working)
    was = steering.cancel(working.database, working.ref, running)
    assert was == TrialState.RUNNING
    until(lambda: _held(working) - {running} != set())
    trial = working.trials[running]
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.PRUNED, "canceled by a user")
    assert trial.value == value(trial.params["x"], 1)
    Held.go.set()
    until(lambda: _is_done(working))
    assert len(working.trials[running].intermediate_values) == 1
    assert len(working.trials) == held.trials


def test_a_stopped_worker_ends_within_a_batch_and_one_that_starts_later_does_not(
    working: Process, start: Start
) -> None:
    steering.stop(working.database, working.ref)
    until(lambda: not _held(working))
    assert working.claims.claim() is Standing.STOPPED
    assert start(held).claim().number == 0


def test_a_trial_that_waits_for_its_promotion_is_canceled_for_good(start: Start) -> None:
    undisturbed = start()
    undisturbed.work()
    late = next(
        trial.number
        for trial in undisturbed.trials
        if trial.user_attrs.get("reopened") and trial.number < 8
    )
    database = undisturbed.database
    process = start(replace(curves, name="again"))
    while len(process.trials) <= late:
        process.run(process.claim())
    assert process.trials[late].state == TrialState.PRUNED
    steering.cancel(database, process.ref, late)
    process.work()
    assert len(process.trials) == curves.trials
    assert len(process.trials[late].intermediate_values) == 1
    assert len(undisturbed.trials[late].intermediate_values) > 1


def test_a_waiting_trial_is_canceled_once_and_a_complete_one_is_refused(start: Start) -> None:
    process = start(replace(curves, variants={"one": Choices(x=0.5), "two": Choices(x=0.6)}))
    assert steering.cancel(process.database, process.ref, 1) == TrialState.WAITING
    process.work()
    assert [trial.user_attrs.get("variant") for trial in process.trials][:3] == ["one", "two", None]
    assert process.trials[1].state == TrialState.FAIL
    finished = [t for t in process.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == curves.trials
    start(replace(curves, variants={"one": Choices(x=0.5), "two": Choices(x=0.6)})).work()
    assert len(process.trials) == curves.trials + 1
    for number, message in ((0, "it is COMPLETE"), (1, "it is FAIL"), (99, "no such trial")):
        with pytest.raises(UserError, match=message):
            steering.cancel(process.database, process.ref, number)


def test_what_was_canceled_is_no_result_of_pruning_and_a_re_run_is_refused(start: Start) -> None:
    process = start(replace(curves, pruner=HALVING))
    process.work()
    overview = Observer(process.database, process.joined).look()
    before = Savings.of(overview)
    cut = next(trial for trial in overview.trials if trial.state == TrialState.PRUNED)
    with pytest.raises(UserError, match="it is PRUNED and will not go on"):
        steering.cancel(process.database, process.ref, cut.number)
    process.joined.enqueue_trial({"x": 0.5})
    rerun = {"trial": 0, "repeat": 0, "seed": 1}
    process.joined.enqueue_trial({"x": 0.5}, user_attrs=rerun)
    steering.cancel(process.database, process.ref, curves.trials or 0)
    overview = Observer(process.database, process.joined).look()
    assert Savings.of(overview) == before
    assert count_text(overview, TrialState.FAIL) == "1 failed (1 canceled)"
    n_pruned = overview.counts[TrialState.PRUNED]
    assert count_text(overview, TrialState.PRUNED) == f"{n_pruned} pruned"
    report = ReportData.of(process.database, process.worker.study, options="", commands=Commands())
    assert "0 diverged, 0 failed, 1 canceled" in counts(report)
    with pytest.raises(UserError, match="it is a re-run"):
        steering.cancel(process.database, process.ref, (curves.trials or 0) + 1)


def test_a_worker_whose_study_is_deleted_while_it_waits_says_so(
    tmp_path: Path, search: Command
) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    with Run(tmp_path, "search.run", *ENDLESS) as run:
        run.until("EPOCH")
        assert search("search.__main__", "pause", "digits").returncode == 0
        until(lambda: _at_work(storage, "digits") == 0)
        deleted = search("search.__main__", "delete", "digits", "--yes")
        assert (deleted.returncode, deleted.stderr) == (0, "")
        assert run.end(60) == 1
        (line,) = run.errors.splitlines()
        assert line.startswith("search.run: the study 'digits' was deleted or renamed")
