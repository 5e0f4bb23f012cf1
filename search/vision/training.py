"""Training of one network on images.

`ImageTraining.fit` is a generator: it trains an epoch, then yields its metrics. All random draws
depend only on the seed and the epoch's number, so a training that is resumed after any epoch gives
the results of an uninterrupted one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.study.metrics import Metrics, split
from search.study.training import About, Run
from search.vision.classifier import ImageAbout, serialized
from search.vision.image_classification import Precision
from search.vision.images import Images
from search.vision.precision import autocast

if TYPE_CHECKING:
    from search.vision.session import Splits

EVALUATION_BATCH = 100
"""Batch size for evaluation: the activations take about 25 MB of CPU memory."""


class ImageTraining:
    """A network, its optimizer and its images, all on one device.

    Train loss and accuracy are measured if the run is detailed, or if one of them is its metric;
    they take a third of an epoch's time.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        splits: "Splits",
        run: Run[Any],
        *,
        batch_size: int,
        precision: Precision = "float32",
        learning_rate: Callable[[Any, int, int], float] | None = None,
        build: str = "",
    ) -> None:
        """`build` is the qualified name of the function that built the network; `learning_rate`
        is as for `ImageClassification`."""
        first = next(network.parameters())
        self.network = network
        self.optimizer = optimizer
        self._splits = splits
        self._run = run
        self._batch_size = batch_size
        self._precision = precision
        self._learning_rate = learning_rate
        self._build = build
        self._dtype = first.dtype
        self._device = first.device

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        """Train from epoch `after` + 1 on, and yield each epoch's metrics."""
        for number in range(after + 1, self._run.epochs + 1):
            metrics = {"batch_loss": self._train(number)}
            for name, images in self._measured(number):
                metrics[f"{name}_loss"], metrics[f"{name}_accuracy"] = self._evaluate(images)
            yield metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `fit` resumes: weights and optimizer state, not copied."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def export(self, about: About) -> bytes:
        """Return a file for `search.weights.load`."""
        splits = self._splits
        return serialized(
            self.network,
            ImageAbout(
                about=about,
                build=self._build,
                shape=splits.shape,
                classes=splits.classes,
                whites=splits.whites,
            ),
        )

    def _measured(self, number: int) -> Iterator[tuple[str, Images]]:
        if self._run.is_detailed or split(self._run.metric)[0] == "train":
            yield "train", self._splits.train
        if self._splits.validation is not None:
            yield "validation", self._splits.validation
        if self._splits.validation is None or number == self._run.epochs:
            yield "test", self._splits.test

    def _train(self, number: int) -> float:
        """Train one epoch and return the mean batch loss, synchronizing only at the end."""
        if self._learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self._run.choices, number, self._run.epochs)
        generator = torch.Generator().manual_seed(self._run.seed_for("order", number))
        order = torch.randperm(len(self._splits.train), generator=generator)
        losses = []
        self.network.train()
        batches = self._splits.train.batches(self._batch_size, order=order, dtype=self._dtype)
        for done, (images, labels) in enumerate(batches, start=1):
            loss = self.loss(images, labels, reduction="sum")
            self.optimizer.zero_grad()
            (loss / len(labels)).backward()
            self.optimizer.step()
            losses.append(loss.detach())
            self._run.after_batch(done)
        return _total(losses) / len(order)

    @torch.inference_mode()
    def _evaluate(self, images: Images) -> tuple[float, float]:
        """Return the mean loss and the accuracy over `images` in eval mode."""
        losses, hits = [], []
        self.network.eval()
        with self._autocast():  # the weights are cast once
            for pixels, labels in images.batches(EVALUATION_BATCH, dtype=self._dtype):
                scores = self.network(pixels)
                losses.append(F.cross_entropy(scores, labels, reduction="sum"))
                hits.append((scores.argmax(1) == labels).sum())
                self._run.after_batch(0)
        return _total(losses) / len(images), _total(hits) / len(images)

    def loss(
        self, images: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
    ) -> Tensor:
        """Return the cross-entropy of a batch as a scalar tensor."""
        with self._autocast():
            return F.cross_entropy(self.network(images), labels, reduction=reduction)

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self._device, self._precision)


def _total(values: list[Tensor]) -> float:
    """Return the sum of scalar tensors, computed in float64 on the CPU."""
    return torch.stack(values).cpu().double().sum().item()
