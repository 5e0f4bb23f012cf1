"""CIFAR-10: six networks of a course report, and the search around them.

The report (CS535, Winter 2019, assignment 3) trains each network once; its published figures are in
`published.csv`. Settings that it does not state follow from its questions, which build on each
other, and from PyTorch's defaults, such as layers with biases.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner

from search.study import Confirmation, Epoch, Promotion, Study
from search.study.space import Ranges, Value
from search.vision import ImageClassification, ImageShape
from studies.cifar.choices import Choices, learning_rate

if TYPE_CHECKING:
    from studies.cifar.network import Network

__all__ = ["BASE", "BEST_KNOWN", "QUESTION_3", "VARIANTS", "Choices", "course_study"]

BASE = Choices(
    bn1="off",
    bn2="off",
    extra_fc=False,
    conv_bias=True,
    fc_bias=True,
    optimizer="SGD",
    lr=0.01,
    weight_decay=0.0,
    schedule="constant",
)
QUESTION_1 = replace(BASE, bn1="plain")
QUESTION_2 = replace(QUESTION_1, extra_fc=True)
QUESTION_3 = replace(QUESTION_2, optimizer="Adamax", lr=0.001, weight_decay=1e-4)
QUESTION_4_1 = replace(QUESTION_3, weight_decay=1e-5)
QUESTION_4_2 = replace(QUESTION_4_1, bn2="affine")

BEST_KNOWN = Choices(
    bn1="affine",
    bn2="affine",
    extra_fc=True,
    conv_bias=True,
    fc_bias=False,
    optimizer="RMSprop",
    lr=0.000968259679692302,
    weight_decay=1e-3,
    schedule="cosine",
)
"""The winner of the search in `search.db`."""

VARIANTS = {
    "base": BASE,
    "question-1": QUESTION_1,
    "question-2": QUESTION_2,
    "question-3": QUESTION_3,
    "question-4.1": QUESTION_4_1,
    "question-4.2": QUESTION_4_2,
}


def build(choices: Choices, shape: ImageShape) -> "Network":
    """Return the report's network; PyTorch is imported only here."""
    from studies.cifar.network import Network

    return Network(choices, shape)


def course_study(
    name: str,
    *,
    dataset: str,
    ranges: Ranges | None = None,
    batch_size: int = 32,
    images: int | None = None,
    pruner: BasePruner | None = None,
    **settings: Any,
) -> Study[Choices]:
    """Return a study of the report's network on a dataset, ranked by test accuracy.

    `ranges` replace those of `Choices`, `settings` are further fields of `search.study.Study`. The
    default pruner compares training losses after epoch 1, and nothing later up to epoch 15; see
    docs/performance.md.

    Raises:
        UserError: a setting is invalid.
    """
    for parameter in ("lr", "weight_decay"):
        for value in _ends((ranges or {}).get(parameter)):
            # A rate that no optimizer takes raises here.
            replace(BASE, **{parameter: value})  # type: ignore[arg-type]
    return Study(
        name=name,
        choices=Choices,
        train=ImageClassification(
            dataset=dataset,
            build=build,
            learning_rate=learning_rate,
            batch_size=batch_size,
            images=images,
        ),
        metric="test_accuracy",
        diverged_as=0.0,
        pruner=pruner or Promotion(first_loss="batch_loss", factor=16),
        ranges=ranges or {},
        epoch_text=epoch_text,
        **settings,
    )


def _ends(range_: object) -> "tuple[Value, ...]":
    match range_:
        case CategoricalDistribution(choices=values):
            return values
        case FloatDistribution(low=low, high=high):
            return low, high
    return ()


def epoch_text(epoch: Epoch) -> str:
    """Return the metrics of an epoch in the report's order and with its names."""
    of = epoch.metrics
    parts = [f"batch_loss: {of['batch_loss']:.5f}"]
    if "train_loss" in of:
        parts = [f"train_loss: {of['train_loss']:.5f} train_acc: {of['train_accuracy']:.5f}"]
    parts += [
        f"{split}_loss: {of[f'{split}_loss']:.5f} {split}_acc: {of[f'{split}_accuracy']:.5f}"
        for split in ("validation", "test")
        if f"{split}_loss" in of
    ]
    return f"EPOCH: {epoch.number} {' '.join(parts)}"


study = course_study(
    "cifar",
    dataset="cifar10",
    variants=VARIANTS,
    optional_variants={"best-known": BEST_KNOWN},
    epochs_budget=400,
    epochs=10,
    confirm=Confirmation(),
    published=Path(__file__).with_name("published.csv"),
)
