"""A search ends as soon as a completed trial is good enough, or as none gets better."""

import re
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from search.database import steering
from search.study.metrics import Direction
from search.study.study import Study
from tests.support.commands import Command
from tests.support.curves import study as curves
from tests.support.curves import value
from tests.support.process import Process, Start

LAST = curves.epochs
RUNGS = (1, 4)


@pytest.fixture
def study() -> Study:
    return replace(curves, trials=24)


def _x(process: Process, trial: int) -> float:
    return float(process.trials[trial].params["x"])


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_trial_that_reaches_the_target_is_the_last(start: Start, direction: Direction) -> None:
    of_all = replace(curves, direction=direction, name="all")
    undisturbed = start(of_all)
    undisturbed.work()
    order = undisturbed.order
    finals = [(place, value(_x(undisturbed, trial), LAST))
              for place, (trial, epoch) in enumerate(order, 1) if epoch == LAST]  # fmt: skip
    assert len(finals) > 2
    sign = 1 if direction == "maximize" else -1
    target = finals[1][1]
    place = next(place for place, final in finals if sign * final >= sign * target)
    early = start(replace(of_all, name="early", target=target))
    early.work()
    assert early.order == order[:place]
    more = start(replace(of_all, name="early", target=None))
    more.work()
    assert more.order == order


def test_it_ends_after_so_many_trials_without_a_better_one(start: Start) -> None:
    undisturbed = start()
    undisturbed.work()
    order = undisturbed.order
    best, completed, expected = -1.0, 0, 0
    for place, (trial, epoch) in enumerate(order, 1):
        if epoch not in (*RUNGS, LAST):
            continue
        final = value(_x(undisturbed, trial), LAST)
        if epoch == LAST and final > best:
            best, completed = final, place
        since = {one for one, _ in order[completed:place]}
        if completed and len(since) >= 7:
            expected = place
            break
    assert 0 < expected < len(order)
    early = start(replace(curves, trials=24, name="early", patience=7))
    early.work()
    assert early.order == order[:expected]
    assert early.claims.early_end(early.worker.study.budget) == (
        f"7 trials have finished since trial {order[completed - 1][0]} completed with value "
        f"{best:.4f}, and none is better"
    )


def test_a_canceled_trial_is_not_one_without_a_better_one(start: Start) -> None:
    process = start(replace(curves, trials=24, patience=7))
    process.work()
    budget, order = process.worker.study.budget, process.order
    finals = [trial for trial, epoch in order if epoch == LAST]
    best = max(finals, key=lambda trial: value(_x(process, trial), LAST))
    since = order[order.index((best, LAST)) + 1 :]
    waiting = next(number for number, epoch in since if "rung" in process.trials[number].user_attrs)
    assert len({number for number, _ in since}) == 7
    assert process.claims.early_end(budget) is not None
    steering.cancel(process.database, process.ref, waiting)
    assert process.claims.early_end(budget) is None


def test_other_workers_leave_their_trials(start: Start) -> None:
    study = replace(curves, target=-10.0)
    held, worker = start(study), start(study)
    left = held.claim()
    assert not held.claims.must_leave()
    while not any(trial.state == TrialState.COMPLETE for trial in worker.trials):
        worker.run(worker.claim())
    assert held.claims.must_leave()
    assert worker.claims.is_spent(study.budget)
    assert left.number == 0


def test_the_command_tells_why_and_keeps_what_it_was_given(search: Command) -> None:
    quick = "--study", "digits", "--images", 160, "--epochs", 2, "--trials", 12
    done = search("run", *quick, "--target", 0.3)
    assert done.returncode == 0, done.stderr
    assert "It ends early with a trial that reaches 0.3000." in done.stdout
    (why,) = (line for line in done.stdout.splitlines() if line.startswith("Ended early: "))
    assert re.match(r"Ended early: trial [01] reached the target 0.3000 with test accuracy 0", why)
    again = search("run", *quick[:-2])
    assert why in again.stdout
    more = search("run", *quick, "--target", "none", "--patience", 3)
    assert more.returncode == 0, more.stderr
    assert "It ends early with 3 trials without a better one." in more.stdout
    for option in (("--target", "high"), ("--patience", "0")):
        refused = search("run", *quick, *option)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"argument {option[0]}: none, or a" in refused.stderr
