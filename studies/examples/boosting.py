"""Gradient boosting of trees on the breast cancer data, trained by LightGBM; maximizes the AUC.

    pip install '.[boosting]'
    python -m search.run --study studies/examples/boosting.py

An epoch is eight rounds, so that pruning stops a bad trial after the first few trees.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import lightgbm
import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split

from search.study import Metrics, Run, Study

ROUNDS = 8
"""Number of trees of an epoch."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Parameters of LightGBM by their names."""

    learning_rate: Annotated[float, FloatDistribution(0.01, 0.5, log=True)]
    num_leaves: Annotated[int, IntDistribution(2, 32, log=True)]
    min_data_in_leaf: Annotated[int, IntDistribution(1, 40)]
    feature_fraction: Annotated[float, FloatDistribution(0.2, 1.0)]
    lambda_l2: Annotated[float, FloatDistribution(1e-4, 10.0, log=True)]


@cache
def cells() -> Any:
    features, labels = load_breast_cancer(return_X_y=True)
    return train_test_split(features, labels, test_size=0.4, random_state=0, stratify=labels)


class Boosting:
    """One training. The booster is text between the epochs, so that a resumed training continues
    from the same trees as an undisturbed one."""

    def __init__(self, run: Run[Choices]) -> None:
        self.run = run
        self.text = ""

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        train, test, labels, expected = cells()
        for epoch in range(after + 1, self.run.epochs + 1):
            booster = lightgbm.train(
                {
                    **vars(self.run.choices),
                    "objective": "binary",
                    "seed": self.run.seed_for("epoch", epoch) % 2**31,
                    "deterministic": True,
                    "num_threads": self.run.threads,
                    "verbosity": -1,
                },
                lightgbm.Dataset(train, labels),
                num_boost_round=ROUNDS,
                init_model=lightgbm.Booster(model_str=self.text) if self.text else None,
            )
            self.text = booster.model_to_string()
            predicted = np.asarray(booster.predict(test))
            yield {
                "test_auc": roc_auc_score(expected, predicted),
                "test_loss": log_loss(expected, predicted),
                "test_error": float(np.mean((predicted > 0.5) != expected)),
            }

    def state_dict(self) -> Mapping[str, Any]:
        return {"booster": self.text}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.text = state["booster"]


study = Study(
    name="boosting",
    choices=Choices,
    train=Boosting,
    metric="test_auc",
    trials=40,
    epochs=12,
)
