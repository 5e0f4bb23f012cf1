"""A training that tells the mean training loss over the first parts of its first epoch."""

import math
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

from search.study.metrics import Metrics
from search.vision.session import ImageSession
from search.vision.training import ImageTraining
from studies.cifar import Choices

PARTS = {"eighth": 8, "quarter": 4, "half": 2}


class RecordedTraining(ImageTraining):
    """Adds `batch_loss_eighth`, `batch_loss_quarter` and `batch_loss_half` to the first epoch."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._losses: list[Tensor] = []
        """Of the epoch's batches: sums over their images."""
        self._sizes: list[int] = []

    def loss(
        self, images: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
    ) -> Tensor:
        found = super().loss(images, labels, reduction=reduction)
        self._losses.append(found.detach())
        self._sizes.append(len(labels))
        return found

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        for number, metrics in enumerate(super().fit(after), start=after + 1):
            parts = self._parts() if number == 1 else {}
            self._losses, self._sizes = [], []
            yield {**metrics, **parts}

    def _parts(self) -> Metrics:
        """Return the mean loss over each part of the epoch, rounded up to whole batches."""
        found = {}
        for name, parts in PARTS.items():
            n = math.ceil(len(self._losses) / parts)
            total = sum(loss.double().item() for loss in self._losses[:n])
            found[f"batch_loss_{name}"] = total / sum(self._sizes[:n])
        return found


class RecordedSession(ImageSession[Choices]):
    made = RecordedTraining
