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

from search.database.database import Database
from search.database.snapshot import Observer
from search.errors import UserError
from search.study.pruners import Promotion
from search.study.study import Study
from studies.curves.table import Curve
from tests.benchmarks.replay import Search
from tests.benchmarks.surrogate import METRIC
from tests.support.curves import BY_LOSS, HALVING, PROMOTION, Choices, loss, value
from tests.support.curves import study as curves
from tests.support.process import Process, Start

N = 16
FACTOR = 4
RUNGS = (4, 1)


@pytest.fixture
def study() -> Study:
    return curves


def _reached(order: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return each trial's last epoch."""
    return {trial: max(epoch for of, epoch in order if of == trial) for trial, _ in order}


def _expected(
    xs: Sequence[float], n_trials: int, order: list[tuple[int, int]], pruner: Promotion = PROMOTION
) -> None:
    """Extend `order`, the epochs that one worker trains, to a budget of `n_trials`."""
    while True:
        reached = _reached(order)
        trial = _earned(xs, reached, pruner)
        if trial is None:
            if len(reached) == n_trials:
                return
            trial = len(reached)
        after = reached.get(trial, 0)
        until = next((rung for rung in sorted(RUNGS) if rung > after), curves.epochs)
        order += [(trial, epoch) for epoch in range(after + 1, until + 1)]


def _ranked(
    xs: Sequence[float], reached: Mapping[int, int], rung: int, pruner: Promotion
) -> list[int]:
    """Return the trials that have reached the rung, best first."""
    there = [trial for trial, last in reached.items() if last >= rung]
    if pruner is BY_LOSS and rung == 1:
        return sorted(there, key=lambda trial: loss(xs[trial], 1))
    return sorted(there, key=lambda trial: value(xs[trial], rung), reverse=True)


def _earned(xs: Sequence[float], reached: Mapping[int, int], pruner: Promotion) -> int | None:
    for rung in RUNGS:
        there = _ranked(xs, reached, rung, pruner)
        for trial in there[: max(len(there) // FACTOR, 1)]:
            if reached[trial] == rung:
                return trial
    return None


def _xs(process: Process) -> list[float]:
    return [trial.params["x"] for trial in process.trials]


def _states(process: Process) -> dict[int, bool]:
    """Return for each trial whether it is complete; the others are pruned."""
    found = {trial.number: trial.state for trial in process.trials}
    assert set(found.values()) <= {TrialState.COMPLETE, TrialState.PRUNED}
    return {number: state == TrialState.COMPLETE for number, state in found.items()}


@pytest.mark.parametrize("pruner", [PROMOTION, BY_LOSS], ids=["value", "loss"])
def test_the_best_of_each_rung_go_on_in_the_order_in_which_they_earn_it(
    start: Start, tmp_path: Path, pruner: Promotion
) -> None:
    process = start(replace(curves, pruner=pruner, seed=1))
    process.work()
    xs, expected = _xs(process), list[tuple[int, int]]()
    _expected(xs, N, expected, pruner)
    assert process.order == expected
    assert any(now < before for (before, _), (now, _) in pairwise(expected)), "some go on late"
    reached = _reached(expected)
    assert _states(process) == {n: last == 10 for n, last in reached.items()}
    assert _kept(tmp_path) <= _contenders(xs, reached, pruner)
    assert _replayed(xs, pruner) == (
        len(expected),
        [trial for trial, epoch in expected if epoch == 10],
    )


def _kept(folder: Path) -> set[tuple[int, int]]:
    """Return the checkpoints in the folder, as (trial, epoch)."""
    names = [path.name.split("-") for path in folder.rglob("*-*-*-*") if path.is_file()]
    assert names
    return {(int(name[1]), int(name[2])) for name in names}


def _contenders(
    xs: Sequence[float], reached: Mapping[int, int], pruner: Promotion
) -> set[tuple[int, int]]:
    found = set()
    for rung in RUNGS:
        there = _ranked(xs, reached, rung, pruner)
        first = there[: max(2 * (len(there) // FACTOR), FACTOR)]
        found |= {(trial, rung) for trial in first if reached[trial] == rung}
    return found


def _replayed(xs: Sequence[float], pruner: Promotion) -> tuple[int, list[int]]:
    """Return the number of epochs and the completed trials of the same search in the benchmark."""
    draws = [
        Curve(
            trial=trial,
            repeat=None,
            choices={"x": x},
            seconds=(1.0,) * 10,
            metrics={
                METRIC: tuple(value(x, epoch) for epoch in range(1, 11)),
                "loss": tuple(loss(x, epoch) for epoch in range(1, 11)),
            },
        )
        for trial, x in enumerate(xs)
    ]
    left = iter(draws)
    search = Search(lambda trials: next(left, None), pruner, epochs=10)
    complete = [trial.number for _, _, trial in search.run(workers=1)]
    return search.epochs, complete


def test_a_larger_budget_goes_on_with_trials_of_the_smaller_one(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(replace(curves, trials=10))
    process.work()
    expected: list[tuple[int, int]] = []
    _expected(_xs(process), 10, expected)
    assert process.order == expected
    before = _reached(expected)
    for number, epochs in before.items():
        for path in tmp_path.rglob(f"*-{number}-1-*") if epochs == 1 else ():
            path.unlink()  # the trial is trained again if it goes on
    more = start(replace(curves, trials=20))
    more.work()
    _expected(_xs(more), 20, expected)
    assert more.order == expected
    after = _reached(expected)
    again = {number for number in before if (before[number], after[number]) == (1, 4)}
    assert {text for text in caplog.messages if "checkpoint" in text} == {
        f"trial {number}: its checkpoint is not in {tmp_path}/files; "
        "it is trained again up to epoch 1"
        for number in again
    }
    goes_on = {(before[trial], after[trial]) for trial in before} - {(1, 1), (4, 4), (10, 10)}
    assert goes_on == {(1, 4)}
    for trial in more.trials:
        recorded = more.database.epochs(more.ref.key, trial.number)
        assert [epoch.metrics["value"] for epoch in recorded] == [
            value(trial.params["x"], epoch) for epoch in range(1, after[trial.number] + 1)
        ]
        assert list(trial.intermediate_values) == list(range(1, after[trial.number] + 1))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_loss_of_the_first_rung_has_to_be_measured(start: Start) -> None:
    process = start(replace(curves, pruner=replace(PROMOTION, first_loss="nll")))
    with pytest.raises(
        UserError, match="yielded value, loss in epoch 1, but not nll, the pruner's"
    ):
        process.work()
    (trial,) = process.trials
    assert (trial.state, process.order) == (TrialState.FAIL, [])


def test_a_trial_says_what_its_rung_compares(start: Start) -> None:
    process = start(replace(curves, pruner=BY_LOSS, seed=1))
    process.work()
    reasons = [t.user_attrs["reason"] for t in process.trials if "rung" in t.user_attrs]
    assert {reason.partition(" at ")[2] for reason in reasons} == {
        f"epoch {rung}, where it waits to be promoted" for rung in RUNGS
    }
    for trial in process.trials:
        at, x = trial.user_attrs.get("rung"), trial.params["x"]
        compared = {None: "", 1: f"loss {loss(x, 1):.4f} at", 4: f"value {value(x, 4):.4f} at"}
        assert trial.user_attrs.get("reason", "").startswith(compared[at])


def test_fixed_and_enqueued_trials_take_no_places(start: Start) -> None:
    best = {f"best {n}": Choices(x=1 - n / 1000) for n in range(4)}
    beside = start(replace(curves, variants=best, trials=N))
    beside.joined.enqueue_trial({"x": 0.999})
    beside.work()
    assert [_states(beside)[n] for n in range(5)] == [True] * 5
    xs = _xs(beside)[5:]
    expected: list[tuple[int, int]] = []
    _expected(xs, N - 5, expected)
    sampled = [(trial - 5, epoch) for trial, epoch in beside.order if trial >= 5]
    assert sampled == expected


def test_they_take_none_under_successive_halving_either(start: Start) -> None:
    best = {f"best {n}": Choices(x=1 - n / 1000) for n in range(4)}
    process = start(replace(curves, variants=best, pruner=HALVING, trials=N))
    process.work()
    there: dict[int, list[float]] = {1: [], 4: []}
    for trial in process.trials[4:]:
        expected = 10
        for rung, others in there.items():
            mine = value(trial.params["x"], rung)
            n_better = sum(other > mine for other in others)
            others.append(mine)
            if n_better >= max(len(others) // FACTOR, 1):
                expected = rung
                break
        assert trial.last_step == expected


def test_another_process_sees_that_a_pruned_trial_goes_on(start: Start, url: str) -> None:
    process = start(replace(curves, trials=4))
    elsewhere = Database(url)
    observer = Observer(elsewhere, process.joined)
    process.run(process.claim())
    assert observer.look().counts == {TrialState.PRUNED: 1}
    process.run(process.claim())  # the only one is the best so far
    seen = observer.look()
    assert seen.trials[0].last_step == len(seen.of(seen.trials[0])) == 4
    assert process.trials[0].user_attrs["reopened"] == 1
    elsewhere.close()
