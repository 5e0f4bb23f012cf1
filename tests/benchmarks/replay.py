"""How many epochs a pruner needs to find a good trial: `python -m tests.benchmarks.replay`.

Searches over the recorded learning curves of `studies/curves`, with a clock that only counts. A
search draws curves at random, without repetition, and reads their metrics instead of training;
which trial stops and which goes on is decided by the pruners of `search.study.pruners`. All pruners
are given the same draws. Printed is, for each pruner, the median over the searches, with the range
of the middle 80 %, of the epochs and of the seconds until the best completed trial is within 0.5
points of the best of the table; and the share of the searches that never got there. With "loss",
the first rung compares the mean training loss over the epoch and not the test accuracy.

The rules of the pruners are the service's own. Claims, the database and samplers are left out,
since they take seconds for each search.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.pruners import Halving, Promotion, SuccessiveHalving
from studies.curves.table import FILE, Curve, read

METRIC = "test_accuracy"
LOSS = "batch_loss"
"""The mean training loss over an epoch's batches."""
WITHIN = 0.005
PRUNERS: Mapping[str, BasePruner] = {
    "none": NopPruner(),
    "median": MedianPruner(),
    "halving 1": SuccessiveHalving(factor=11),  # whose second rung is beyond the last epoch
    "halving 1, 4": SuccessiveHalving(),
    "halving 1, 3, 9": SuccessiveHalving(factor=3),
    "halving 2, 6": SuccessiveHalving(min_epochs=2, factor=3),
    "promotion 1": Promotion(factor=11),
    "promotion 1, 4": Promotion(),
    "promotion 1, 3, 9": Promotion(factor=3),
    "promotion 2, 6": Promotion(min_epochs=2, factor=3),
}


@dataclass
class Trial:
    number: int
    curve: Curve
    epoch: int = 0
    """The last one that it was trained for."""
    is_waiting: bool = False
    by_loss: int = 0
    """The last epoch after which trials are compared by their training loss."""

    def value(self, epoch: int) -> float:
        """Return what is compared after `epoch`; higher is better."""
        if epoch <= self.by_loss:
            return -self.curve.metrics[LOSS][epoch - 1]
        return self.curve.metrics[METRIC][epoch - 1]

    def frozen(self, state: TrialState = TrialState.RUNNING) -> FrozenTrial:
        """Return the trial as Optuna hands it to a pruner."""
        values = {epoch: self.value(epoch) for epoch in range(1, self.epoch + 1)}
        complete = state == TrialState.COMPLETE
        return create_trial(
            state=state,
            value=values[self.epoch] if complete else None,
            intermediate_values=values,
        )


@dataclass(frozen=True)
class Rung:
    """See `search.study.pruners.Rung` and `search.study.pruners.Rivals`."""

    epoch: int
    trials: list[Trial]
    trial: Trial | None = None
    """The one that is compared with the others."""

    def __len__(self) -> int:
        return len(self.trials)

    def best(self, n: int) -> Any:
        if self.trial is not None:
            return heapq.nlargest(n, (trial.value(self.epoch) for trial in self._others()))[-1]
        return heapq.nsmallest(
            n, self.trials, key=lambda trial: (-trial.value(self.epoch), trial.number)
        )

    def is_waiting(self, trial: Trial) -> bool:
        return trial.is_waiting and trial.epoch == self.epoch

    def standing(self, value: float) -> tuple[int, int]:
        others = self._others()
        return len(others), sum(other.value(self.epoch) > value for other in others)

    def _others(self) -> list[Trial]:
        return [trial for trial in self.trials if trial is not self.trial]


class Search:
    """A search over `draws`, the curves of its trials in the order in which they are begun."""

    direction = StudyDirection.MAXIMIZE

    def __init__(
        self, draws: Sequence[Curve], pruner: BasePruner, *, epochs: int, by_loss: int = 0
    ) -> None:
        self._draws = enumerate(draws)
        self._by_loss = by_loss
        self._pruner = pruner
        self._last = epochs
        self._rungs: dict[int, list[Trial]] = {epoch: [] for epoch in range(1, epochs + 1)}
        self._complete: list[FrozenTrial] = []
        self.epochs = 0
        """The number of epochs so far."""

    def get_trials(self, **options: object) -> list[FrozenTrial]:
        """Return the completed trials, as a pruner of Optuna asks a study for them."""
        return self._complete

    def run(self, workers: int) -> Iterator[tuple[int, float, Trial]]:
        """Yield each completed trial, with the epochs and the seconds until then."""
        order = itertools.count()
        at_work: list[tuple[float, int, Trial]] = []
        clock = 0.0
        while True:
            while len(at_work) < workers and (claimed := self._claimed()) is not None:
                self._begin(at_work, clock, next(order), claimed)
            if not at_work:
                return
            clock, _, trial = heapq.heappop(at_work)
            self.epochs += 1
            trial.epoch += 1
            self._rungs[trial.epoch].append(trial)
            is_complete = trial.epoch == self._last
            if is_complete:
                self._complete.append(trial.frozen(TrialState.COMPLETE))
                yield self.epochs, clock, trial
            elif not self._is_stopped(trial):
                self._begin(at_work, clock, next(order), trial)

    def _begin(
        self, at_work: list[tuple[float, int, Trial]], clock: float, order: int, trial: Trial
    ) -> None:
        """Begin the trial's next epoch, unless it diverges in it."""
        if trial.epoch < len(trial.curve):
            heapq.heappush(at_work, (clock + trial.curve.seconds[trial.epoch], order, trial))

    def _is_stopped(self, trial: Trial) -> bool:
        pruner = self._pruner
        if isinstance(pruner, Promotion):
            trial.is_waiting = trial.epoch in pruner.rungs(self._last - 1)
            return trial.is_waiting
        study, frozen = cast(optuna.Study, self), trial.frozen()
        if isinstance(pruner, SuccessiveHalving):
            rung = Rung(trial.epoch, self._rungs[trial.epoch], trial)
            return pruner.cut(study, frozen, lambda *_: rung) is not None
        return pruner.prune(study, frozen)

    def _claimed(self) -> Trial | None:
        """Return the trial to go on with, else a new one; None if there is none."""
        if isinstance(self._pruner, Promotion):
            rungs = {
                epoch: Rung(epoch, self._rungs[epoch])
                for epoch in self._pruner.rungs(self._last - 1)
            }
            found: Trial | None = self._pruner.promotable(rungs, epochs=self._last, left=math.inf)
            if found is not None:
                found.is_waiting = False
                return found
        number, curve = next(self._draws, (0, None))
        return None if curve is None else Trial(number, curve, by_loss=self._by_loss)


def reached(search: Search, workers: int, target: float) -> tuple[float, float]:
    """Return the epochs and the seconds until the best completed trial reaches `target`; infinite
    if none does."""
    for epochs, seconds, trial in search.run(workers):
        if trial.value(trial.epoch) >= target:
            return epochs, seconds
    return math.inf, math.inf


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", type=Path, default=FILE, help="default: the shipped one")
    parser.add_argument("--searches", type=int, default=200, help="of each pruner (default: 200)")
    parser.add_argument(
        "--trials", type=int, default=60, help="curves a search draws (default: 60)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    curves = [curve for curve in read(options.table) if len(curve)]
    epochs = max(map(len, curves))
    finals = [curve.metrics[METRIC][-1] for curve in curves if len(curve) == epochs]
    target = max(finals) - WITHIN
    n = min(options.trials, len(curves))
    print(
        f"{len(curves)} curves, best {max(finals):.4f}; {options.searches} searches of {n} trials"
    )
    print("workers  pruner                     epochs (80 %)         seconds (80 %)        never")
    for workers, (name, pruner) in itertools.product(options.workers, PRUNERS.items()):
        halving = pruner if isinstance(pruner, Halving) else None
        for by_loss in (0, halving.min_epochs) if halving else (0,):
            draw = random.Random(options.seed)
            found = []
            for _ in range(options.searches):
                draws = draw.sample(curves, n)
                search = Search(draws, pruner, epochs=epochs, by_loss=by_loss)
                found.append(reached(search, workers, target))
            never = statistics.fmean(epochs == math.inf for epochs, _ in found)
            texts = [_middle(sorted(values)) for values in zip(*found, strict=True)]
            title = f"{name}, loss" if by_loss else name
            print(f"{workers:7}  {title:25}  {texts[0]:20}  {texts[1]:20}  {never:.0%}", flush=True)


def _middle(values: Sequence[float]) -> str:
    """Return the median of sorted values and the range of their middle 80 %, as text."""
    places = (len(values) // 2, len(values) // 10, len(values) - 1 - len(values) // 10)
    median, low, high = (f"{values[place]:.0f}" for place in places)
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    main()
