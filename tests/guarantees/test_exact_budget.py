"""A study of N trials ends with exactly N that completed or were pruned; one of N epochs, with N.

Failed ones do not count, and three in a row stop the search. A variant that failed runs again.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from search.database.database import Database
from search.database.leases import Claim
from search.database.studies import join
from search.reporting.export import trials
from search.study.budget import Budget
from search.study.metrics import Metrics
from search.study.study import Study
from search.study.trial_attributes import FINISHED, REASON, TRACEBACK
from search.worker.claims import ATTEMPTS, Standing
from search.worker.result import Outcome
from search.worker.worker import KeepsFailing
from tests.support import curves
from tests.support.commands import QUICK, Command, Run
from tests.support.databases import PASSWORD, rows
from tests.support.epochs import epoch
from tests.support.process import Start, Workers, held_leases


def test_failed_trials_do_not_count(workers: Workers) -> None:
    claims = workers.new(budget=3)
    for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE):
        workers.end(claims, state)
    assert claims.claim() is Standing.SPENT
    assert isinstance(workers.new(budget=4).claim(), Claim)


def test_no_worker_starts_a_trial_beyond_the_budget(workers: Workers) -> None:
    three = [workers.new(budget=2) for _ in range(3)]
    assert [type(claims.claim()) for claims in three] == [Claim, Claim, Standing]
    assert three[2].claim() is Standing.WAIT


def test_a_smaller_budget_leaves_interrupted_trials_running(
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


def test_a_claim_grants_no_more_epochs_than_the_budget_has(
    workers: Workers, database: Database
) -> None:
    first, second, third = (workers.new(budget=Budget(epochs=6)) for _ in range(3))
    claim = workers.claim(first)
    assert claim.until == 4  # of the 4 that a trial has
    other = workers.claim(second)
    assert other.until == 2
    assert third.claim() is Standing.WAIT  # for what the two may leave
    database.record(claim, epoch(1, test_accuracy=0.1), None, score=0.1)
    first.finish(claim, Outcome(state=TrialState.PRUNED))
    left = workers.claim(third)
    assert left.until == 3
    for claims, one in ((second, other), (third, left)):
        for number in range(1, one.until + 1):
            database.record(one, epoch(number, test_accuracy=0.1), None, score=0.1)
        claims.finish(one, Outcome.cut_short(one.until))
    assert third.claim() is Standing.SPENT
    assert third.is_spent(Budget(epochs=6))
    assert not third.is_spent(Budget(epochs=7))
    again = workers.claim(workers.new(budget=Budget(epochs=9)))
    assert (again.number, again.until) == (other.number, 4)
    again = workers.claim(workers.new(budget=Budget(epochs=9)))
    assert (again.number, again.until) == (left.number, 4)


def test_an_interrupted_trial_has_the_epochs_of_its_worker(
    workers: Workers, database: Database
) -> None:
    first, second = (workers.new(budget=Budget(epochs=3)) for _ in range(2))
    claim = workers.claim(first)
    database.record(claim, epoch(1, test_accuracy=0.1), None, score=0.1)
    assert second.claim() is Standing.WAIT
    first.release(claim)
    taken = workers.claim(second)
    assert (taken.number, taken.until) == (claim.number, 3)
    for number in (2, 3):
        database.record(taken, epoch(number, test_accuracy=0.1), None, score=0.1)
    second.release(taken)  # killed before it ended the trial
    last = workers.claim(first)
    assert (last.number, last.until) == (claim.number, 3)


CLAIMING = """
import random, sys
import optuna
from optuna.trial import TrialState
from search.worker.claims import Claims, Standing
from search.worker.result import Outcome
from search.study.budget import Budget
from search.database.database import Database
from search.database.studies import join
from search.study.study_file import load
optuna.logging.set_verbosity(optuna.logging.ERROR)
database = Database(sys.argv[1])
digits = load("digits")
study = join(database, digits, data_digest="x")
claims = Claims(database, study, study=digits, budget=Budget(trials=30))
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


@pytest.mark.slow
def test_processes_started_together_meet_the_budget(
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


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_several_workers_share_a_budget(search: Command, url: str) -> None:
    done = search("run", *QUICK, "--workers", 3, "--trials", 12, "--storage", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "On 3 workers, each on CPU, 1 thread." in done.stdout
    assert "Trials: 12 of 12 finished" in done.stdout
    assert PASSWORD not in done.stdout
    database = Database(url)
    trials = database.optuna.get_all_trials(1)
    database.close()
    assert len(trials) == 12
    spans = [(t.datetime_start, t.datetime_complete) for t in trials]
    assert any(
        a[0] < b[0] < a[1]  # type: ignore[operator]  # finished trials have both
        for a in spans
        for b in spans
    ), "no two trials ran at once"


def test_a_failed_variant_runs_again_before_waiting_trials(
    workers: Workers, joined: optuna.Study
) -> None:
    workers.end(workers.new(), TrialState.FAIL)
    assert [workers.end(workers.new()) for _ in range(3)] == [1, 3, 2]
    variants = [trial for trial in joined.trials if "variant" in trial.user_attrs]
    assert [trial.user_attrs["variant"] for trial in variants] == [
        "question-1", "question-3", "question-1",
    ]  # fmt: skip
    assert variants[2].params == variants[0].params
    assert variants[2].state == TrialState.COMPLETE


def test_a_variant_that_always_fails_is_given_up(workers: Workers, joined: optuna.Study) -> None:
    workers.end(workers.new())
    for _ in range(ATTEMPTS):
        workers.end(workers.new(), TrialState.FAIL)
    assert joined.trials[workers.end(workers.new())].user_attrs == {"enqueued": {"lr": 0.02}}
    workers.end(workers.new())
    assert len([t for t in joined.trials if "variant" in t.user_attrs]) == 1 + ATTEMPTS


def test_a_variant_that_failed_for_a_while_still_completes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    with monkeypatch.context() as patch:
        patch.setattr("studies.cifar.network.HIDDEN", 10**13)
        process.run(process.claim())
    process.work()
    assert process.trials[0].state == TrialState.FAIL
    complete = [trial for trial in process.trials if trial.state == TrialState.COMPLETE]
    assert [t.user_attrs["variant"] for t in complete if "variant" in t.user_attrs] == [
        "question-3", "question-1",
    ]  # fmt: skip
    assert len([trial for trial in process.trials if trial.state in FINISHED]) == 6


def test_a_failed_variant_is_enqueued_again(database: Database, study: Study) -> None:
    joined = join(database, study, data_digest="x")
    joined.tell(joined.ask(), state=TrialState.FAIL)
    names = [trial.user_attrs["variant"] for trial in join(database, study, data_digest="x").trials]
    assert names == ["question-1", "question-3", "question-1"]


def test_a_failed_variant_is_not_enqueued_again_by_each_worker(
    database: Database, study: Study
) -> None:
    joined = join(database, study, data_digest="x")
    joined.tell(joined.ask(), state=TrialState.FAIL)
    assert len(join(database, study, data_digest="x", retry=False).trials) == 2
    for _ in range(2):
        again = join(database, study, data_digest="x")
    assert [trial.user_attrs for trial in again.trials[2:]] == [{"variant": "question-1"}]


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every hidden layer be of a size that no machine has the memory for."""
    monkeypatch.setattr("studies.cifar.network.HIDDEN", 10**13)


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
    assert "cifar/network.py" in failed[0].user_attrs[TRACEBACK]
    told = json.loads(trials(process.database, process.worker.study.name, "json"))
    assert "cifar/network.py" in told[failed[0].number]["traceback"]
    assert held_leases(process.database, process.ref.key) == {}


class _FailsInEpoch2(curves.Curve):
    def fit(self, after: int = 0) -> Iterator[Metrics]:
        for number, metrics in enumerate(super().fit(after), start=after + 1):
            if number == 2:
                raise ValueError("in epoch 2")
            yield metrics


@pytest.mark.parametrize("pruner", [curves.PROMOTION, curves.HALVING])
def test_trials_that_are_pruned_between_failures_of_later_epochs_do_not_excuse_them(
    start: Start, pruner: BasePruner
) -> None:
    study = replace(curves.study, train=_FailsInEpoch2, pruner=pruner)
    process = start(study)
    with pytest.raises(KeepsFailing, match=r"3 trials in a row have failed.*: in epoch 2 "):
        process.work()
    states = [trial.state for trial in process.trials]
    assert states.count(TrialState.FAIL) == 3
    assert TrialState.PRUNED in states
    assert TrialState.COMPLETE not in states


CURVES = """
from dataclasses import replace
from tests.support.curves import HALVING, PROMOTION, study
study = replace(study, pruner={pruner})
"""


def test_processes_started_together_meet_a_budget_of_epochs(
    search: Command, url: str, tmp_path: Path
) -> None:
    pruner = "HALVING" if url.startswith("sqlite") else "PROMOTION"
    file = tmp_path / "curves.py"
    file.write_text(CURVES.format(pruner=pruner))
    options = ("--study", file, "--storage", url, "--workers", 2)
    with ExitStack() as stack:
        started = [
            stack.enter_context(Run(tmp_path, "run", *options, "--epochs-budget", 47))
            for _ in range(2)
        ]
        for run in started:
            assert run.end() == 0, run.errors
            assert "Epochs: 47 of " in run.output
            assert "; the budget is 47" in run.output
    found = rows(url, "curves")
    assert sum(len(row["epochs"]) for row in found) == 47
    assert {row["state"] for row in found} <= {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("pruner", ["HALVING", "PROMOTION"])
def test_a_larger_budget_of_epochs_goes_on_as_if_there_had_been_no_end(
    pruner: str, search: Command, tmp_path: Path
) -> None:
    file = tmp_path / "curves.py"
    file.write_text(CURVES.format(pruner=pruner))
    whole, parts = (f"sqlite:///{tmp_path / name}.db" for name in ("whole", "parts"))
    assert search("run", "--study", file, "--storage", whole, "--trials", 12).returncode == 0
    expected = rows(whole, "curves")
    n = sum(len(row["epochs"]) for row in expected)
    for budget in (3, 15, n):
        options = ("run", "--study", file, "--storage", parts, "--epochs-budget", budget)
        done = search(*options)
        assert (done.returncode, done.stderr) == (0, "")
        assert sum(len(row["epochs"]) for row in rows(parts, "curves")) == budget
    again = search("run", "--study", file, "--storage", parts)  # the budget is kept
    assert f"{n} of {n} epochs done" in again.stdout
    for ours, theirs in zip(rows(parts, "curves"), expected, strict=True):
        for row in (ours, theirs):
            row["user_attrs"].pop("reopened", None)
        assert ours == theirs
