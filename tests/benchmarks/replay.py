"""How many epochs a search needs to find a good trial: `python -m tests.benchmarks.replay`.

Searches over the recorded learning curves of `studies/curves`, with a clock that only counts: a
search reads metrics instead of training. Which trial stops and which goes on is decided by the
pruners of `search.study.pruners`. There are two kinds of searches.

- At random: a search draws recorded curves. Its incumbent, the best completed trial, is good enough
  within 0.5 points of the best of the table. All pruners are given the same draws. The table is
  divided in two halves, of the even and of the odd trials, and there is a second task, so that what
  is chosen on one can be judged on another.
- `--samplers`: a sampler of Optuna suggests the choices, as in the service, and its curve is
  predicted from the recorded ones, see `tests.benchmarks.surrogate`. What counts of the incumbent
  is its expected accuracy, which is good enough within 0.5 points of the best expected.

Printed is, for each pruner, the median over the searches, with the range of the middle 80 %, of the
epochs and of the seconds until the incumbent is good enough, the share of the searches in which it
never is, and the mean accuracy of the incumbents after so many epochs, with its standard error.
With "loss", the first rung compares the mean training loss of its epoch and not the test accuracy.
A sampler that is "lifted" is given pruned trials as if they had completed, with what those that did
complete gained on average from there; the number is that of its random trials, 16 without one.

The rules of the pruners, the samplers and the views that they have of other trials are the
service's own. Claims and the database are left out, since they take seconds for each search.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import GPSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.cli.parser import whole
from search.database.optuna_internals import StudyView
from search.study.pruners import Promotion, SuccessiveHalving
from search.study.samplers import TPE, SamplerFactory
from search.study.space import Ranges, Space, Value
from search.worker.repeatable_sampler import RepeatableSampler
from studies.cifar import Choices
from studies.curves.cifar10 import AT_RANDOM
from studies.curves.table import FILE, Curve, read
from tests.benchmarks.surrogate import LOSS, METRIC, Surrogate

WITHIN = 0.005
MOMENTS = (60, 100, 150, 200, 250, 400)
"""The epochs after which incumbents are compared."""
PRUNERS: Mapping[str, BasePruner] = {
    "none": NopPruner(),
    "median": MedianPruner(),
    "SuccessiveHalving 1, 2, 4, 8, 1/2": SuccessiveHalving(factor=2),  # ASHA of Ray's tutorials
    **{
        f"{kind.__name__} {rungs}, {share}{', loss' if set_to else ''}": kind(
            min_epochs=first, factor=factor, keep=keep, **set_to
        )
        for rungs, first, factor in (
            ("1", 1, 11),  # whose second rung is beyond the last epoch
            ("1, 4", 1, 4),
            ("1, 3, 9", 1, 3),
            ("1, 8", 1, 8),
            ("2, 6", 2, 3),
        )
        for share, keep in (("1/2", 1 / 2), ("1/3", 1 / 3), ("1/4", 1 / 4))
        for kind, set_to in (
            (SuccessiveHalving, {}),
            (Promotion, {}),
            (Promotion, {"first_loss": LOSS}),
        )
    },
}
SAMPLERS: Mapping[str, tuple[SamplerFactory, bool]] = {
    "random": (RandomSampler, False),
    **{
        f"{name}{' lifted' if is_lifted else ''}": (factory, is_lifted)
        for name, factory in (
            ("tpe", TPE()),
            ("tpe 8", TPE(startup_trials=8)),
            ("gp", partial(GPSampler, n_startup_trials=8)),
        )
        for is_lifted in (False, True)
    },
}
"""Samplers, each with whether it is given lifted trials."""
SPACE = Space(Choices)


@dataclass
class Trial:
    number: int
    curve: Curve
    epoch: int = 0
    """The last one that it was trained for."""
    is_waiting: bool = False
    is_ended: bool = False

    def accuracy(self, epoch: int) -> float:
        return self.curve.metrics[METRIC][epoch - 1]

    def frozen(self, *, last: int, ranges: Ranges | None = None) -> FrozenTrial:
        """Return the trial as Optuna hands it to a pruner, or with `ranges` to a sampler; `last` is
        the last epoch of a complete one."""
        state = TrialState.RUNNING
        if self.is_ended or self.is_waiting:
            state = TrialState.COMPLETE if self.epoch == last else TrialState.PRUNED
        found = create_trial(
            state=state,
            value=self.accuracy(self.epoch) if state == TrialState.COMPLETE else None,
            params=dict(self.curve.choices) if ranges else {},
            distributions=dict(ranges or {}),
            intermediate_values={e: self.accuracy(e) for e in range(1, self.epoch + 1)},
        )
        found.number = self.number
        return found


Draw = Callable[[Sequence[Trial]], Curve | None]
"""Returns the curve of a new trial, from the trials so far; None if there is none."""


def drawn_from(curves: Sequence[Curve], seed: float) -> Draw:
    """Return a draw of the curves at random, with repetition."""
    draw = random.Random(seed)
    return lambda trials: draw.choice(curves)


class Suggested:
    """A draw of what a sampler suggests, with the curve that `surrogate` predicts."""

    def __init__(self, name: str, surrogate: Surrogate, *, seed: int, last: int) -> None:
        factory, self._is_lifted = SAMPLERS[name]
        self._sampler = RepeatableSampler(factory, seed)
        self._surrogate = surrogate
        self._random = random.Random(seed)
        self._last = last
        self._study = optuna.create_study(direction="maximize")

    def __call__(self, trials: Sequence[Trial]) -> Curve:
        frozen = [trial.frozen(last=self._last, ranges=SPACE.ranges) for trial in trials]
        if self._is_lifted:
            frozen = lifted(frozen, last=self._last)
        study = StudyView(self._study, lambda _: frozen)
        self._study.ask()  # TPE keeps what it suggests with the trial
        trial = self._study.get_trials(deepcopy=False)[-1]
        space = self._sampler.infer_relative_search_space(study, trial)
        params: dict[str, Value] = self._sampler.sample_relative(study, trial, space)
        for name, range_ in SPACE.ranges.items():
            if name not in params:
                params[name] = self._sampler.sample_independent(study, trial, name, range_)
        return self._surrogate.drawn(params, trial.number, self._random)


def lifted(trials: Sequence[FrozenTrial], *, last: int) -> list[FrozenTrial]:
    """Return the trials with the pruned ones completed: their last value, and what the complete
    ones gained on average from there to the end."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    found = []
    for trial in trials:
        step = trial.last_step
        if trial.state == TrialState.PRUNED and step is not None and complete:
            gains = [
                one.intermediate_values[last] - one.intermediate_values[step] for one in complete
            ]
            value = trial.intermediate_values[step] + statistics.fmean(gains)
            number = trial.number
            trial = create_trial(
                state=TrialState.COMPLETE,
                value=value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={last: value},
            )
            trial.number = number
        found.append(trial)
    return found


@dataclass(frozen=True)
class Rung:
    """See `search.study.pruners.Rung` and `search.study.pruners.Rivals`."""

    epoch: int
    trials: list[Trial]
    loss: str | None = None
    """The metric that is compared, lower is better; None for the accuracy."""
    trial: Trial | None = None
    """The one that is compared with the others."""

    def __len__(self) -> int:
        return len(self.trials)

    def best(self, n: int) -> Any:
        if self.trial is not None:
            return heapq.nlargest(n, map(self._value, self._others()))[-1]
        return heapq.nsmallest(n, self.trials, key=lambda one: (-self._value(one), one.number))

    def is_waiting(self, trial: Trial) -> bool:
        return trial.is_waiting and trial.epoch == self.epoch

    def standing(self, value: float) -> tuple[int, int]:
        others = self._others()
        return len(others), sum(self._value(other) > value for other in others)

    def _others(self) -> list[Trial]:
        return [trial for trial in self.trials if trial is not self.trial]

    def _value(self, trial: Trial) -> float:
        """Return what is compared; higher is better."""
        if self.loss is not None:
            return -trial.curve.metrics[self.loss][self.epoch - 1]
        return trial.accuracy(self.epoch)


class Search:
    """A search whose trials are begun as `draw` says."""

    direction = StudyDirection.MAXIMIZE

    def __init__(self, draw: Draw, pruner: BasePruner, *, epochs: int) -> None:
        self._draw = draw
        self._pruner = pruner
        self._last = epochs
        self._trials: list[Trial] = []
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
            if trial.epoch == self._last:
                trial.is_ended = True
                self._complete.append(trial.frozen(last=self._last))
                yield self.epochs, clock, trial
            elif not self._is_stopped(trial):
                self._begin(at_work, clock, next(order), trial)

    def _begin(
        self, at_work: list[tuple[float, int, Trial]], clock: float, order: int, trial: Trial
    ) -> None:
        """Begin the trial's next epoch, unless it diverges in it."""
        if trial.epoch < len(trial.curve):
            heapq.heappush(at_work, (clock + trial.curve.seconds[trial.epoch], order, trial))
        else:
            trial.is_ended = True

    def _is_stopped(self, trial: Trial) -> bool:
        pruner = self._pruner
        if isinstance(pruner, Promotion):
            trial.is_waiting = trial.epoch in pruner.rungs(self._last - 1)
            return trial.is_waiting
        study, frozen = cast(optuna.Study, self), trial.frozen(last=self._last)
        if isinstance(pruner, SuccessiveHalving):
            rung = Rung(trial.epoch, self._rungs[trial.epoch], trial=trial)
            trial.is_ended = pruner.cut(study, frozen, lambda *_: rung) is not None
        else:
            trial.is_ended = pruner.prune(study, frozen)
        return trial.is_ended

    def _claimed(self) -> Trial | None:
        """Return the trial to go on with, else a new one; None if there is none."""
        if isinstance(self._pruner, Promotion):
            rungs = {
                epoch: Rung(epoch, self._rungs[epoch], self._pruner.loss_at(epoch))
                for epoch in self._pruner.rungs(self._last - 1)
            }
            found: Trial | None = self._pruner.promotable(rungs)
            if found is not None:
                found.is_waiting = False
                return found
        curve = self._draw(self._trials)
        if curve is None:
            return None
        self._trials.append(Trial(len(self._trials), curve))
        return self._trials[-1]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found."""

    epochs: float
    """Until its incumbent was good enough; infinite if it never was."""
    seconds: float
    after: Sequence[float]
    """The goodness of the incumbent after so many epochs as in `MOMENTS`; 0 without one."""


def followed(
    search: Search,
    workers: int,
    *,
    goodness: Callable[[Trial], float],
    target: float,
    most: int,
) -> Found:
    """Follow the incumbent of a search, its best completed trial, for `most` epochs."""
    incumbent = (-math.inf, 0.0)
    reached = math.inf, math.inf
    after: list[float] = []
    for epochs, seconds, trial in search.run(workers):
        after += [incumbent[1]] * (sum(moment < epochs for moment in MOMENTS) - len(after))
        if epochs > most:
            break
        accuracy = trial.accuracy(trial.epoch)
        if accuracy > incumbent[0]:
            incumbent = accuracy, goodness(trial)
            if incumbent[1] >= target and reached[0] == math.inf:
                reached = epochs, seconds
    after += [incumbent[1]] * (len(MOMENTS) - len(after))
    return Found(epochs=reached[0], seconds=reached[1], after=after)


def main() -> None:
    options = _options()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for table in options.table:
        curves = [curve for curve in read(table) if len(curve)]
        if options.samplers:
            _suggested(table.stem, curves, options)
            continue
        at_random = [c for c in curves if c.repeat is None and c.trial < AT_RANDOM]
        halves = {"even trials": 0, "odd trials": 1}
        for name, remainder in halves.items():
            half = [curve for curve in at_random if curve.trial % 2 == remainder]
            _at_random(f"{table.stem}, {name}", half, options)


def _at_random(title: str, curves: list[Curve], options: argparse.Namespace) -> None:
    epochs = max(map(len, curves))
    target = max(curve.metrics[METRIC][-1] for curve in curves if len(curve) == epochs) - WITHIN
    print(f"{title}: {len(curves)} curves, target {target:.4f}, within {options.most} epochs")
    _head()
    for workers, name in itertools.product(options.workers, options.pruners):
        draw = random.Random(options.seed)
        found = []
        for _ in range(options.searches):
            seed = draw.random()
            search = Search(drawn_from(curves, seed), PRUNERS[name], epochs=epochs)
            found.append(
                followed(
                    search,
                    workers,
                    goodness=lambda trial: trial.accuracy(epochs),
                    target=target,
                    most=options.most,
                )
            )
        _row(workers, name, found)


def _suggested(title: str, curves: list[Curve], options: argparse.Namespace) -> None:
    epochs = max(map(len, curves))
    surrogate = Surrogate(curves, SPACE.ranges, epochs=epochs)
    overall, top = surrogate.agreement()
    print(
        f"{title}: {len(curves)} curves; Kendall's tau of predictions {overall:.2f}, {top:.2f} in "
        "the best quarter"
    )
    best = max(surrogate.mean(curve.choices) for curve in curves)
    print(f"target {best - WITHIN:.4f}, within {options.most} epochs")
    _head()

    for workers, sampler, name in itertools.product(
        options.workers, options.samplers, options.pruners
    ):
        found = []
        for seed in range(options.seed, options.seed + options.searches):
            draw = Suggested(sampler, surrogate, seed=seed, last=epochs)
            search = Search(draw, PRUNERS[name], epochs=epochs)
            found.append(
                followed(
                    search,
                    workers,
                    goodness=lambda trial: surrogate.mean(trial.curve.choices),
                    target=best - WITHIN,
                    most=options.most,
                )
            )
        _row(workers, f"{sampler}, {name}", found)


def _head() -> None:
    moments = "  ".join(f"{moment:>14}" for moment in MOMENTS)
    titles = f"{'epochs (80 %)':>16}  {'seconds (80 %)':>21}  never"
    print(f"workers  {'search':32}  {titles}  {moments}")


def _row(workers: int, name: str, found: Sequence[Found]) -> None:
    never = statistics.fmean(one.epochs == math.inf for one in found)
    epochs, seconds = (
        _middle(sorted(values))
        for values in ([one.epochs for one in found], [one.seconds for one in found])
    )
    after = "  ".join(
        f"{statistics.fmean(values):.4f} ±{statistics.stdev(values) / len(values) ** 0.5:.4f}"
        for values in zip(*(one.after for one in found), strict=True)
    )
    print(f"{workers:7}  {name:32}  {epochs:>16}  {seconds:>21}  {never:5.0%}  {after}", flush=True)


def _middle(values: Sequence[float]) -> str:
    """Return the median of sorted values and the range of their middle 80 %, as text."""
    places = (len(values) // 2, len(values) // 10, len(values) - 1 - len(values) // 10)
    median, low, high = (f"{values[place]:.0f}" for place in places)
    return f"{median} ({low} to {high})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = partial(", ".join)
    parser.add_argument(
        "--table", type=Path, nargs="+", default=[FILE], help="default: the shipped one of CIFAR-10"
    )
    parser.add_argument(
        "--searches", type=whole(2), default=200, help="of each kind, 2 or more (default: 200)"
    )
    parser.add_argument(
        "--samplers", nargs="+", choices=SAMPLERS, metavar="NAME", help=known(SAMPLERS)
    )
    parser.add_argument(
        "--pruners", nargs="+", choices=PRUNERS, default=list(PRUNERS), metavar="NAME",
        help=f"{known(PRUNERS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--most", type=int, default=1000, help="epochs of a search (default: 1000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="default: 2")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
