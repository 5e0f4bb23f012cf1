"""Learning curves of any choices, predicted from recorded ones, for samplers to search in.

The mean curve is that of extremely randomized trees over the choices. A training's own curve adds
the whole residual of one of the nearest recorded trainings, so that noise is as large, and as long,
as it is there. A training diverges where the one diverged whose residual it has.
"""

import math
import random
from collections.abc import Mapping, Sequence

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


class Surrogate:
    """Predicts curves of `epochs` epochs, from curves of the same task."""

    def __init__(
        self, curves: Sequence[Curve], ranges: Mapping[str, BaseDistribution], *, epochs: int
    ) -> None:
        self._curves = curves
        self._ranges = ranges
        self._epochs = epochs
        self._features = np.array([self._row(curve.choices) for curve in curves])
        self._targets = np.array([self._flat(curve) for curve in curves])
        self._model = _fitted(self._features, self._targets)
        # Of trees that have not seen the curve: those of the other folds.
        self._residuals = self._targets - self._held_out()

    def mean(self, choices: Mapping[str, Value]) -> float:
        """Return the expected last value of `METRIC`."""
        predicted = self._model.predict(self._row(choices)[None])[0]
        return float(predicted[self._epochs - 1])

    def drawn(self, choices: Mapping[str, Value], trial: int, draw: random.Random) -> Curve:
        """Return the curve of a training of `choices`."""
        row = self._row(choices)
        nearest = np.argsort(np.abs(self._features - row).sum(axis=1), kind="stable")[:NEAREST]
        like = draw.choice(nearest.tolist())
        flat = self._model.predict(row[None])[0] + self._residuals[like]
        n = len(self._curves[like])
        accuracies, losses = flat[: self._epochs], flat[self._epochs :]
        return Curve(
            trial=trial,
            repeat=None,
            choices=choices,
            seconds=self._curves[like].seconds,
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


def _fitted(features: Matrix, targets: Matrix) -> ExtraTreesRegressor:
    model = ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)
    return model.fit(features, targets)
