"""Multinomial regression on handwritten digits, trained by scikit-learn; minimizes the log loss.

python -m search.run --study studies/examples/linear.py
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from search.study import Metrics, Run, Study


@dataclass(frozen=True, kw_only=True)
class Choices:
    alpha: Annotated[float, FloatDistribution(1e-7, 1e-1, log=True)]
    penalty: Literal["l1", "l2", "elasticnet"]
    eta0: Annotated[float, FloatDistribution(1e-3, 1.0, log=True)]
    average: bool


@cache  # loaded once by each worker
def digits() -> Any:
    pixels, labels = load_digits(return_X_y=True)
    return train_test_split(pixels / 16, labels, test_size=0.2, random_state=0)


class Linear:
    """One training: an epoch is a pass over the images in a new order."""

    def __init__(self, run: Run[Choices]) -> None:
        choices = run.choices
        self.run = run
        self.model = SGDClassifier(
            loss="log_loss",
            penalty=choices.penalty,
            alpha=choices.alpha,
            learning_rate="constant",
            eta0=choices.eta0,
            average=choices.average,
            random_state=run.seed,
        )

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        train, test, labels, expected = digits()
        for _ in range(after, self.run.epochs):
            order = np.random.permutation(len(train))  # the service has seeded NumPy
            self.model.partial_fit(train[order], labels[order], classes=np.arange(10))
            yield {
                "train_loss": log_loss(labels, self.model.predict_proba(train)),
                "test_loss": log_loss(expected, self.model.predict_proba(test)),
                "test_accuracy": self.model.score(test, expected),
            }

    def state_dict(self) -> Mapping[str, Any]:
        return {"model": pickle.dumps(self.model)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model = pickle.loads(state["model"])


study = Study(
    name="linear",
    choices=Choices,
    train=Linear,
    metric="test_loss",
    direction="minimize",
    variants={"plain": Choices(alpha=1e-4, penalty="l2", eta0=0.1, average=False)},
    trials=40,
    epochs=16,
)
