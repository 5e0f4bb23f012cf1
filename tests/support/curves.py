"""A training of an instant, whose metric is a function of its one choice and of the epoch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from search.study.metrics import Metrics
from search.study.pruners import Promotion, SuccessiveHalving
from search.study.study import Study
from search.study.training import Run


@dataclass(frozen=True)
class Choices:
    x: Annotated[float, FloatDistribution(0.0, 1.0)]


def value(x: float, epoch: int) -> float:
    """Return the metric after `epoch`: the curves of different `x` cross."""
    return x + math.sin(50 * x + epoch) / (1 + epoch)


def loss(x: float, epoch: int) -> float:
    """Return another metric after `epoch`, which ranks different `x` in another way."""
    return math.cos(20 * x) / epoch


class Curve:
    def __init__(self, run: Run[Choices]) -> None:
        self.run = run
        self.epoch = 0
        """The last epoch."""

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        assert after == self.epoch, "the state was loaded"
        for epoch in range(after + 1, self.run.epochs + 1):
            self.epoch = epoch
            yield {of.__name__: of(self.run.choices.x, epoch) for of in (value, loss)}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]


HALVING = SuccessiveHalving(factor=4, keep=0.25)
PROMOTION = Promotion(factor=4, keep=0.25)
"""Of the four best trials at a rung, one goes on, as in the source of both."""
BY_LOSS = replace(PROMOTION, first_loss="loss")

study = Study(
    name="curves",
    choices=Choices,
    train=Curve,
    metric="value",
    trials=16,
    epochs=10,
    sampler=RandomSampler,
    pruner=PROMOTION,
)
