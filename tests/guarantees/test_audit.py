"""An audit runs a share of the pruned trials to their end, and changes nothing of the search."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest
from optuna.pruners import BasePruner, ThresholdPruner
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata
from sqlalchemy import select

from search.analysis.audit import audits
from search.database import queries, tables
from search.database.snapshot import Observer
from search.study.budget import Budget
from search.study.metrics import Epoch
from search.study.pruners import Promotion
from search.study.study import Study
from search.worker.claims import Standing
from search.worker.result import Outcome
from tests.support.curves import BY_LOSS, HALVING, PROMOTION, value
from tests.support.curves import study as curves
from tests.support.process import Killed, Process, Start, killed_at

N = 16
ALL = ThresholdPruner(lower=10.0)
"""Prunes every trial after its first epoch."""
TRIALS, EPOCHS = Budget(trials=N), Budget(epochs=40)


@pytest.fixture
def study() -> Study:
    return curves


def _rows(process: Process) -> list[tuple[int, int]]:
    """Return the recorded epochs in their order, as (trial, epoch)."""
    rows = tables.epochs.c
    query = select(rows.trial, rows.number).where(rows.study_key == process.ref.key)
    with process.database.engine.connect() as connection:
        return [(row.trial, row.number) for row in connection.execute(query.order_by(rows.id))]


def _budgeted(process: Process) -> int:
    with process.database.engine.connect() as connection:
        return queries.n_epochs(connection, process.ref)


def _ended(process: Process) -> dict[int, tuple[str, int | None]]:
    return {trial.number: (trial.state.name, trial.last_step) for trial in process.trials}


def _audited(process: Process) -> dict[int, int]:
    """Return the epoch at which each audited trial was pruned."""
    found = {trial.number: trial.user_attrs.get("audited") for trial in process.trials}
    return {number: epoch for number, epoch in found.items() if epoch is not None}


@pytest.mark.parametrize(
    ("pruner", "budget"),
    [(PROMOTION, EPOCHS), (HALVING, TRIALS)],
    ids=["promotion", "halving"],
)
def test_a_share_of_the_pruned_trials_is_run_to_the_end_after_the_search(
    start: Start, pruner: BasePruner, budget: Budget
) -> None:
    plain = replace(curves, pruner=pruner, seed=3).with_budget(budget)
    process = start(plain)
    process.work()
    search, ended, pruned = _rows(process), _ended(process), _stopped(process.trials)
    assert _budgeted(process) == len(search)
    assert not _audited(process)
    process.close()
    process = start(replace(plain, audit=0.4))
    assert not process.claims.is_spent(process.worker.study.budget)
    process.work()
    audited = _audited(process)
    assert audited.items() < pruned.items()
    assert 0.15 * len(pruned) < len(audited) < 0.65 * len(pruned)
    assert _ended(process) == ended | dict.fromkeys(audited, ("COMPLETE", 10))
    rows = _rows(process)
    assert rows[: len(search)] == search
    assert rows[len(search) :] == [
        (trial, epoch) for trial, cut in sorted(audited.items()) for epoch in range(cut + 1, 11)
    ]
    assert _budgeted(process) == len(search)
    for number in audited:
        trial = process.trials[number]
        assert trial.value == value(trial.params["x"], 10)
    overview = Observer(process.database, process.joined).look()
    assert overview.n_recorded == len(search)
    assert process.claims.is_spent(process.worker.study.budget)


def _stopped(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return the rung at which each pruned trial was pruned."""
    return {t.number: t.user_attrs["rung"] for t in trials if "rung" in t.user_attrs}


def test_a_larger_budget_goes_on_as_if_there_had_been_no_audit(start: Start) -> None:
    study = replace(curves, pruner=HALVING, trials=N, seed=5)
    process = start(study)
    process.work()
    expected = _ended(process)
    audited = start(replace(study, name="audited", trials=8, audit=1.0))
    audited.work()
    assert _audited(audited)
    audited.close()
    more = start(replace(study, name="audited", audit=0))
    more.work()
    assert _ended(more) == expected | dict.fromkeys(_audited(more), ("COMPLETE", 10))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("budget", [TRIALS, EPOCHS], ids=["trials", "epochs"])
def test_an_audit_that_is_killed_goes_on(start: Start, budget: Budget) -> None:
    study = replace(curves, audit=0.4, pruner=HALVING).with_budget(budget)
    process = start(study)
    process.work()
    expected, rows = _ended(process), sorted(_rows(process))
    study = replace(study, name="killed")
    killed = start(replace(study, audit=0))
    killed.work()
    n = len(killed.trials)
    killed.close()
    killed = start(study)
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(2))
    killed.close()
    again = start(replace(study, audit=0))  # what was begun is run to its end all the same
    assert not again.claims.is_spent(budget)
    again.work()
    assert len(_audited(again)) == 1
    again.close()
    last = start(study)
    last.work()
    assert len(last.trials) == n
    assert (_ended(last), sorted(_rows(last))) == (expected, rows)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_an_audit_waits_for_the_last_trials_of_the_search(start: Start) -> None:
    study = replace(curves, trials=2, audit=1.0, pruner=ALL)
    process, other = start(study), start(study)
    process.run(process.claim())
    held = process.claim()
    assert other.claims.claim() is Standing.WAIT
    process.run(held)
    first, second = process.claim(), other.claim()
    assert (first.is_audit, second.is_audit) == (True, True)
    assert {first.number, second.number} == {0, 1}
    assert not process.claims.is_spent(Budget(trials=2))


def test_a_failed_audit_leaves_the_trial_pruned(start: Start) -> None:
    study = replace(curves, trials=1, audit=1.0, pruner=ALL)
    process = start(study)
    process.run(process.claim())
    process.claims.finish(process.claim(), Outcome(state=TrialState.FAIL, reason="out of memory"))
    (trial,) = process.trials
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.PRUNED, "out of memory")
    assert process.claims.claim() is Standing.SPENT
    assert process.claims.is_spent(Budget(trials=1))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("pruner", [PROMOTION, BY_LOSS], ids=["value", "loss"])
def test_the_report_counts_how_often_pruning_was_wrong(start: Start, pruner: Promotion) -> None:
    process = start(replace(curves, trials=40, audit=0.5, seed=5, pruner=pruner))
    process.work()
    overview = Observer(process.database, process.joined).look()
    ends = {t.number: t.value for t in process.trials if t.state == TrialState.COMPLETE}
    audited = _audited(process)
    through = [end for number, end in ends.items() if number not in audited and end is not None]
    found = audits(overview, pruner)
    assert [one.rung for one in found] == [1, 4]
    for one in found:
        of = [end for n, end in ends.items() if audited.get(n) == one.rung and end is not None]
        assert (one.audited, one.let_through, one.diverged) == (len(of), len(through), 0)
        left = [t for t in process.trials if t.user_attrs.get("rung") == one.rung]
        assert one.pruned == len(left) + len(of)
        assert one.above_median == sum(end > median(through) for end in of)
        assert one.above_best == sum(end > max(through) for end in of)
        both = {n for n in ends if audited.get(n, one.rung) == one.rung}
        ranked = [_compared(overview.epochs[n][one.rung - 1], pruner) for n in both]
        ended = [overview.epochs[n][-1].metrics["value"] for n in both]
        assert one.correlation == pytest.approx(_spearman(ranked, ended))
    assert sum(one.above_median for one in found) > 0


def _compared(epoch: Epoch, pruner: Promotion) -> float:
    is_loss = pruner is BY_LOSS and epoch.number == 1
    return -epoch.metrics["loss"] if is_loss else epoch.metrics["value"]


def _spearman(*values: Sequence[float]) -> float:
    """By its formula for ranks without ties."""
    first, second = map(rankdata, values)
    n = len(first)
    return float(1 - 6 * ((first - second) ** 2).sum() / (n * (n**2 - 1)))
