"""A small residual network on CIFAR-10, with choices of its own and two optimizers as branches.

python -m search.run --study studies/examples/residual.py
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from search.study import Study
from search.vision import ImageClassification, ImageShape


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Its fields are arguments of `torch.optim.SGD`; so are those of AdamW."""

    lr: Annotated[float, FloatDistribution(1e-3, 1e-1, log=True)]
    nesterov: bool


@dataclass(frozen=True, kw_only=True)
class AdamW:
    lr: Annotated[float, FloatDistribution(1e-4, 1e-2, log=True)]
    weight_decay: Annotated[float, FloatDistribution(1e-5, 1e-1, log=True)]


@dataclass(frozen=True, kw_only=True)
class Choices:
    width: Annotated[int, IntDistribution(16, 64, step=8)]
    blocks: Annotated[int, IntDistribution(1, 3)]
    norm: Literal["batch", "group"]
    dropout: Annotated[float, FloatDistribution(0.0, 0.5)]
    optimizer: SGD | AdamW


class Block(nn.Module):
    """Map (n, width, s, s) to the same shape."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(width, norm),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(width, norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


def _norm(width: int, norm: str) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(8, width)


def build(choices: Choices, shape: ImageShape) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape.channels, choices.width, 3, padding=1),
        nn.MaxPool2d(2),
        *(Block(choices.width, choices.norm) for _ in range(choices.blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(choices.dropout),
        nn.Linear(choices.width, shape.n_classes),
    )


def learning_rate(choices: Choices, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: linear, to a tenth."""
    return choices.optimizer.lr * (1 - 0.9 * (epoch - 1) / max(epochs - 1, 1))


study = Study(
    name="residual",
    choices=Choices,
    train=ImageClassification(
        dataset="cifar10", build=build, learning_rate=learning_rate, batch_size=128
    ),
    metric="test_accuracy",
    variants={
        "plain": Choices(
            width=32, blocks=2, norm="batch", dropout=0.0, optimizer=SGD(lr=0.05, nesterov=True)
        )
    },
    trials=40,
    epochs=8,
)
