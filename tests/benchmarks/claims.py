"""Speed of trials that do no training: `python -m tests.benchmarks.claims`.

Against a real PostgreSQL or SQLite that holds some finished trials already, workers run trials of
four made-up epochs each. In turn with them, on the same database, as many processes do the same by
plain Optuna: `ask` with the same sampler, `report`, `should_prune` of its own successive halving,
`tell`. Printed are, in milliseconds, the 50th and 95th percentile of each step, trials per second,
and the ratio of the claims' medians.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState

from search.database.database import Database
from search.database.optuna_internals import open_trial
from search.study.study import Study
from search.study.study_file import load
from search.worker.result import Outcome
from tests.benchmarks.databases import empty
from tests.support.epochs import epoch
from tests.support.made_up import made_up
from tests.support.process import Process

EPOCHS = 4
Times = dict[str, list[float]]
"""Seconds of each call by step: claim, record, end."""
Ready = Callable[[], object]
"""Waits until all workers are ready."""
Loop = Callable[[str, Path, int, int, Ready], Times]


@contextmanager
def _timed(times: Times, step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times.setdefault(step, []).append(time.perf_counter() - began)


def _study(n_finished: int) -> Study:
    return replace(load("digits"), variants={}, epochs=EPOCHS + 1, trials=n_finished + 10**6)


def _ours(url: str, folder: Path, n_finished: int, n_trials: int, ready: Ready) -> Times:
    """Run trials as `search.worker.trial` does, but for the training."""
    study = _study(n_finished)
    machine: Any = SimpleNamespace(
        session=SimpleNamespace(digest="none", precision=None)
    )  # trains nothing
    process = Process(url, study, folder, machine=machine)
    joined, claims = process.joined, process.claims
    times: Times = {}
    rng = random.Random(os.getpid())
    ready()
    for _ in range(n_trials):
        with _timed(times, "claim"):
            claim = process.claim()
            trial = open_trial(joined, claim.trial_id)
            study.space.suggest(trial)
        pruned = False
        for number in range(1, EPOCHS + 1):
            accuracy = rng.random()
            of = epoch(number, batch_loss=1.0, test_accuracy=accuracy)
            with _timed(times, "record"):
                process.database.record(claim, of, None, score=accuracy)
                trial.report(accuracy, step=number)
                pruned = trial.should_prune()
            if pruned:
                break
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        outcome = Outcome(state=state, value=None if pruned else accuracy)
        with _timed(times, "end"):
            claims.finish(claim, outcome, process.kept)
    process.close()
    return times


def _plain(url: str, folder: Path, n_finished: int, n_trials: int, ready: Ready) -> Times:
    """Run trials as a loop around Optuna's `ask` and `tell` does."""
    database = Database(url)  # for its connection's settings, which plain Optuna gets as well
    study = optuna.load_study(
        study_name="digits",
        storage=database.optuna,
        sampler=optuna.samplers.TPESampler(
            multivariate=True, constant_liar=True, n_startup_trials=16, seed=os.getpid()
        ),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    )
    space = _study(n_finished).space
    times: Times = {}
    rng = random.Random(os.getpid())
    study.get_trials(deepcopy=False)  # which fills Optuna's cache, as our joining does
    ready()
    for _ in range(n_trials):
        with _timed(times, "claim"):
            trial = study.ask()
            space.suggest(trial)
        pruned = False
        for number in range(1, EPOCHS + 1):
            accuracy = rng.random()
            with _timed(times, "record"):
                trial.report(accuracy, step=number)
                pruned = trial.should_prune()
            if pruned:
                break
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        with _timed(times, "end"):
            study.tell(trial, None if pruned else accuracy, state=state)
    database.close()
    return times


def _serve(loop: Loop, url: str, folder: Path, n: int, trials: int, start, done) -> None:  # type: ignore[no-untyped-def]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done.put(loop(url, folder, n, trials, start.wait))


def _together(
    loop: Loop, url: str, folder: Path, n_finished: int, n_workers: int, n_trials: int
) -> tuple[Times, float]:
    """Return the times of all workers, and the trials per second of all together."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start, done = context.Barrier(n_workers + 1), context.Queue()
    processes = [
        context.Process(target=_serve, args=(loop, url, folder, n_finished, n_trials, start, done))
        for _ in range(n_workers)
    ]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    together: Times = {}
    for _ in processes:
        for step, seconds in done.get(timeout=600).items():
            together.setdefault(step, []).extend(seconds)
    took = time.perf_counter() - began
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return together, n_workers * n_trials / took


def _shown(times: Times, rate: float) -> str:
    steps = []
    for step in ("claim", "record", "end"):
        cut = statistics.quantiles([1000 * second for second in times[step]], n=20)
        steps.append(f"{step} {cut[9]:7.1f} {cut[18]:7.1f}")
    return f"{'   '.join(steps)}   {rate:6.1f} trials/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--finished", nargs="+", type=int, default=[100, 1000, 10000])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--trials", type=int, default=32, help="of all workers, each round")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("milliseconds: median and 95th percentile of each step")
    for kind in options.databases:
        with tempfile.TemporaryDirectory() as name, empty(kind, Path(name)) as url:
            there = 0
            for n_finished in options.finished:
                database = Database(url)
                made_up(database, _study(0), n_finished - there)
                database.close()
                for n_workers in options.workers:
                    each = max(options.trials // n_workers, 4)
                    medians = []
                    for loop in (_ours, _plain):
                        times, rate = _together(loop, url, Path(name), n_finished, n_workers, each)
                        world = f"{kind} {n_finished} finished, {n_workers} workers"
                        shown = _shown(times, rate)
                        print(f"{world:42} {loop.__name__[1:]:6} {shown}", flush=True)
                        medians.append(statistics.median(times["claim"]))
                    print(f"{'':42} plain claim / ours: {medians[1] / medians[0]:.2f}", flush=True)
                there = n_finished


if __name__ == "__main__":
    main()
