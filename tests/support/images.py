"""Trainings of the course's network on images that a test or a benchmark already has."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from search.study.training import Run
from search.vision import ImageClassification
from search.vision.image_classification import Precision
from search.vision.optimizers import by_name
from search.vision.session import ImageSession, Splits
from search.vision.training import ImageTraining
from studies.cifar import Choices, build
from studies.cifar.choices import learning_rate


def run_of(
    choices: Choices,
    *,
    seed: int = 3,
    epochs: int = 5,
    metric: str = "test_accuracy",
    is_detailed: bool = False,
    after_batch: Callable[[int], None] = lambda batches: None,
) -> Run[Choices]:
    return Run(
        choices=choices,
        seed=seed,
        epochs=epochs,
        metric=metric,
        is_detailed=is_detailed,
        device="cpu",
        threads=1,
        data=Path(),
        after_batch=after_batch,
    )


def session_of(
    splits: Splits, *, batch_size: int = 32, precision: Precision = "float32"
) -> ImageSession[Choices]:
    return ImageSession(
        trainer=ImageClassification(
            dataset="digits", build=build, learning_rate=learning_rate, batch_size=batch_size
        ),
        splits=splits,
        digest="none",
        device=splits.train.labels.device,
        precision=precision,
    )


def training_of(
    network: nn.Module,
    splits: Splits,
    run: Run[Choices],
    *,
    batch_size: int = 32,
    precision: Precision = "float32",
) -> ImageTraining:
    return ImageTraining(
        network,
        by_name(run.choices, network),
        splits,
        run,
        batch_size=batch_size,
        precision=precision,
        learning_rate=learning_rate,
    )
