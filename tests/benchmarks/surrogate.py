"""Learning curves of any choices, predicted from recorded ones, for samplers to search in.

The mean curve is that of extremely randomized trees over the choices. A training's own curve adds
the noise of a training that was repeated with other seeds: by how much one of its curves differs
from their mean, in all epochs. It is one of the ten trials with re-runs whose expected accuracies
are closest, so that noise is as large as it is among such trials. A training diverges where the one
diverged whose noise it has.
"""

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from scipy.stats import kendalltau
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold

from search.study.space import Value
from studies.curves.table import Curve

METRIC = "test_accuracy"
LOSS = "batch_loss"
NEAREST = 10
FOLDS = 5
TREES = 60

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Row = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Repeated:
    """A trial with re-runs."""

    expected: float
    """The last value of `METRIC`, as the model predicts it."""
    curves: Sequence[Curve]
    noise: Matrix


class Surrogate:
    """Predicts curves of `epochs` epochs, from curves of the same task, some of them re-runs."""

    def __init__(
        self, curves: Sequence[Curve], ranges: Mapping[str, BaseDistribution], *, epochs: int
    ) -> None:
        self._ranges = ranges
        self._epochs = epochs
        by_trial: dict[int, list[Curve]] = {}
        for curve in curves:
            by_trial.setdefault(curve.trial, []).append(curve)
        seeds = [np.array([self._flat(curve) for curve in same]) for same in by_trial.values()]
        self._features = np.array([self._row(same[0].choices) for same in by_trial.values()])
        self._targets = np.array([flat.mean(axis=0) for flat in seeds])
        self._model = _fitted(self._features, self._targets)
        self._repeated = [
            Repeated(self.mean(same[0].choices), same, _noise(flat))
            for same, flat in zip(by_trial.values(), seeds, strict=True)
            if len(same) > 1
        ]

    def mean(self, choices: Mapping[str, Value]) -> float:
        """Return the expected last value of `METRIC`."""
        predicted = self._model.predict(self._row(choices)[None])[0]
        return float(predicted[self._epochs - 1])

    def drawn(self, choices: Mapping[str, Value], trial: int, draw: random.Random) -> Curve:
        """Return the curve of a training of `choices`."""
        mean = self._model.predict(self._row(choices)[None])[0]
        last = mean[self._epochs - 1]
        like = draw.choice(
            heapq.nsmallest(NEAREST, self._repeated, key=lambda one: abs(one.expected - last))
        )
        seed = draw.randrange(len(like.curves))
        flat, n = mean + like.noise[seed], len(like.curves[seed])
        accuracies, losses = flat[: self._epochs], flat[self._epochs :]
        return Curve(
            trial=trial,
            repeat=None,
            choices=choices,
            seconds=like.curves[seed].seconds,
            metrics={
                METRIC: tuple(np.clip(accuracies, 0, 1)[:n].tolist()),
                LOSS: tuple(losses[:n].tolist()),
            },
        )

    def agreement(self) -> tuple[float, float]:
        """Return Kendall's rank correlation of the predicted and the recorded last values of curves
        that the model has not seen: over all, and over the best quarter."""
        last = self._epochs - 1
        actual, predicted = self._targets[:, last], self._held_out()[:, last]
        best = np.argsort(-actual)[: len(actual) // 4]
        return (
            float(kendalltau(actual, predicted).statistic),
            float(kendalltau(actual[best], predicted[best]).statistic),
        )

    def _held_out(self) -> Matrix:
        found = np.empty_like(self._targets)
        for there, left in KFold(FOLDS, shuffle=True, random_state=0).split(self._features):
            model = _fitted(self._features[there], self._targets[there])
            found[left] = model.predict(self._features[left])
        return found

    def _row(self, choices: Mapping[str, Value]) -> Row:
        parts: list[float] = []
        for name, range_ in self._ranges.items():
            value = choices[name]
            if isinstance(range_, CategoricalDistribution):
                parts += [float(value == one) for one in range_.choices]
            else:
                assert isinstance(range_, FloatDistribution)
                assert isinstance(value, float)
                low, high = math.log(range_.low), math.log(range_.high)
                parts.append(4 * (math.log(value) - low) / (high - low))
        return np.array(parts)

    def _flat(self, curve: Curve) -> Row:
        """Return the curve's accuracies and losses; after it diverged, the last ones again."""
        found = []
        for metric in (METRIC, LOSS):
            values = list(curve.metrics[metric])
            found += values + [values[-1]] * (self._epochs - len(values))
        return np.array([min(max(value, 0.0), 10.0) for value in found])


def _noise(curves: Matrix) -> Matrix:
    """Return by how much each curve differs from the expected one, of which their mean is an
    estimate that they are drawn to."""
    n = len(curves)
    noise: Matrix = (curves - curves.mean(axis=0)) * math.sqrt(n / (n - 1))
    return noise


def _fitted(features: Matrix, targets: Matrix) -> ExtraTreesRegressor:
    model = ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)
    return model.fit(features, targets)
