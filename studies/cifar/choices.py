"""The choices of the course report's network (CS535, Winter 2019, assignment 3)."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution

from search.errors import UserError

Norm = Literal["off", "plain", "affine"]
OptimizerName = Literal["SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Adamax"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Hyperparameters of a trial: network and optimizer.

    No field is a branch, so that multivariate TPE models all of them jointly.
    """

    bn1: Norm
    """Batch normalization after fc1's ReLU; `plain` has no learnable scale and shift."""
    bn2: Norm
    """Batch normalization just before fc2."""
    extra_fc: bool
    """One more Linear(512, 512) and ReLU between fc1 and fc2."""
    conv_bias: bool
    """Bias terms in the four convolutions."""
    fc_bias: bool
    """Bias terms in the fully connected layers."""
    optimizer: OptimizerName
    """Class of `torch.optim`; SGD has momentum 0.9."""
    lr: Annotated[float, FloatDistribution(1e-4, 1e-1, log=True)]
    """Learning rate of the first epoch, above 0."""
    # Categorical, since three of the report's networks use 0, which a log scale cannot hold.
    weight_decay: Annotated[
        float, CategoricalDistribution((0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
    ]
    """L2 penalty as the optimizer defines it, at least 0."""
    schedule: Schedule
    """Learning rate over the epochs: constant, or a half cosine toward 0."""

    def __post_init__(self) -> None:
        """Raises:
        UserError: a rate is one that no optimizer takes.
        """
        for name, rule in (("lr", "above 0"), ("weight_decay", "of at least 0")):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < math.inf or (name == "lr" and value == 0):
                raise UserError(f"{name} must be a finite number {rule}, not {value!r}")


def learning_rate(choices: Choices, number: int, epochs: int) -> float:
    """Return the learning rate of epoch `number` of `epochs`.

    The cosine schedule is `torch.optim.lr_scheduler.CosineAnnealingLR` with `T_max=epochs`: the
    full rate in the first epoch, decreasing toward 0 after the last.
    """
    if choices.schedule == "constant":
        return choices.lr
    return choices.lr * (1 + math.cos(math.pi * (number - 1) / epochs)) / 2
