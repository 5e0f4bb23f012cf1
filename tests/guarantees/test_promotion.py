"""A trial that was passed over on a rung goes on once it is among the best there.

It is the same trial, with the metrics that it would have had, and a budget ends as exactly as
without promotion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy import select

from search.database import tables
from search.database.database import Database
from search.database.snapshot import Observer
from search.study.budget import Budget
from search.study.pruners import Promotion
from search.study.study import Study
from tests.support.curves import Choices, value
from tests.support.curves import study as curves
from tests.support.process import Process, Start

FACTOR = 4
RUNGS = (4, 1)


@pytest.fixture
def study() -> Study:
    return curves


def _reached(order: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return each trial's last epoch."""
    return {trial: max(epoch for of, epoch in order if of == trial) for trial, _ in order}


def _expected(xs: Sequence[float], n_trials: int, order: list[tuple[int, int]]) -> None:
    """Extend `order`, the epochs that one worker trains, to a budget of `n_trials`."""
    while True:
        reached = _reached(order)
        trial = _earned(xs, reached)
        if trial is None:
            if len(reached) == n_trials:
                return
            trial = len(reached)
        after = reached.get(trial, 0)
        until = next((rung for rung in sorted(RUNGS) if rung > after), curves.epochs)
        order += [(trial, epoch) for epoch in range(after + 1, until + 1)]


def _earned(xs: Sequence[float], reached: Mapping[int, int]) -> int | None:
    for rung in RUNGS:
        there = [trial for trial, last in reached.items() if last >= rung]
        there.sort(key=lambda trial: value(xs[trial], rung), reverse=True)
        for trial in there[: len(there) // FACTOR]:
            if reached[trial] == rung:
                return trial
    return None


def _order(process: Process) -> list[tuple[int, int]]:
    """Return the recorded epochs in their order, as (trial, epoch)."""
    rows = tables.epochs.c
    query = select(rows.trial, rows.number).order_by(rows.id)
    with process.database.engine.connect() as connection:
        return [(row.trial, row.number) for row in connection.execute(query)]


def _xs(process: Process) -> list[float]:
    return [trial.params["x"] for trial in process.trials]


def _states(process: Process) -> dict[int, bool]:
    """Return for each trial whether it is complete; the others are pruned."""
    found = {trial.number: trial.state for trial in process.trials}
    assert set(found.values()) <= {TrialState.COMPLETE, TrialState.PRUNED}
    return {number: state == TrialState.COMPLETE for number, state in found.items()}


def test_the_best_of_each_rung_go_on_in_the_order_in_which_they_earn_it(start: Start) -> None:
    process = start()
    process.work()
    expected: list[tuple[int, int]] = []
    _expected(_xs(process), 30, expected)
    assert _order(process) == expected
    assert len(expected) > len(set(expected)) - 1 > 60
    assert _states(process) == {n: last == 10 for n, last in _reached(expected).items()}
    assert any(now < before for (before, _), (now, _) in pairwise(expected)), "some go on late"


def test_a_larger_budget_goes_on_with_trials_of_the_smaller_one(
    start: Start, tmp_path: Path
) -> None:
    process = start(replace(curves, trials=8))
    process.work()
    expected: list[tuple[int, int]] = []
    _expected(_xs(process), 8, expected)
    assert _order(process) == expected
    before = _reached(expected)
    files = [path for path in tmp_path.rglob("*") if "-1-" in path.name]
    files[0].unlink()  # its trial is trained again, if it goes on
    more = start(replace(curves, trials=40))
    more.work()
    _expected(_xs(more), 40, expected)
    assert _order(more) == expected
    after = _reached(expected)
    assert any(after[trial] > last for trial, last in before.items())
    for trial in more.trials:
        epochs = more.database.epochs(more.ref.key, trial.number)
        assert [epoch.metrics["value"] for epoch in epochs] == [
            value(trial.params["x"], epoch) for epoch in range(1, after[trial.number] + 1)
        ]
        assert list(trial.intermediate_values) == list(range(1, after[trial.number] + 1))


def test_fixed_and_enqueued_trials_take_no_places(start: Start) -> None:
    best = {f"best {n}": Choices(x=1 - n / 1000) for n in range(8)}
    beside = start(replace(curves, variants=best, trials=38))
    beside.joined.enqueue_trial({"x": 0.999})
    beside.work()
    assert [_states(beside)[n] for n in range(9)] == [True] * 9
    xs = _xs(beside)[9:]
    expected: list[tuple[int, int]] = []
    _expected(xs, 29, expected)
    sampled = [(trial - 9, epoch) for trial, epoch in _order(beside) if trial >= 9]
    assert sampled == expected


def test_only_contenders_keep_their_checkpoints(start: Start, tmp_path: Path) -> None:
    process = start()
    process.work()
    xs, reached = _xs(process), _reached(_order(process))
    contenders = set()
    for rung in RUNGS:
        there = [trial for trial, last in reached.items() if last >= rung]
        there.sort(key=lambda trial: value(xs[trial], rung), reverse=True)
        first = there[: max(2 * (len(there) // FACTOR), FACTOR)]
        contenders |= {(trial, rung) for trial in first if reached[trial] == rung}
    names = [path.name.split("-") for path in tmp_path.rglob("*-*-*-*") if path.is_file()]
    kept = {(int(name[1]), int(name[2])) for name in names}
    assert kept
    assert kept <= contenders


def test_another_process_sees_that_a_pruned_trial_goes_on(start: Start, url: str) -> None:
    study = replace(curves, trials=4)
    process = start(study)
    elsewhere = Database(url)
    observer = Observer(elsewhere, process.joined)
    for _ in range(4):
        process.run(process.claim())
    seen = observer.look()
    assert seen.counts == {TrialState.PRUNED: 4}
    process.run(process.claim())
    (number,) = (trial.number for trial in process.trials if trial.last_step == 4)
    seen = observer.look()
    assert seen.trials[number].last_step == len(seen.of(seen.trials[number])) == 4
    process.claims.limit(budget=Budget(trials=4))
    assert process.trials[number].user_attrs["reopened"] == 1
    elsewhere.close()


def test_a_rung_stops_a_trial_once(start: Start) -> None:
    process = start(replace(curves, pruner=Promotion(factor=2)))
    process.work()
    order = _order(process)
    assert len(order) == len(set(order))
    for trial in process.trials:
        assert trial.user_attrs.get("reopened", 0) < (trial.last_step or 0)
