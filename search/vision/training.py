"""Training of one network.

`Training.fit` is a generator: it trains an epoch, then yields its metrics. The caller records and
compares them, and stops the training. All random draws depend only on the seed and the epoch's
number, so a training that is resumed after any epoch gives the results of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from search.study.choices import Choices
from search.study.epoch import Epoch
from search.study.seeds import derive_seed
from search.vision.datasets.pictures import Whites
from search.vision.images import Dataset, Images
from search.vision.network import Network, build
from search.vision.precision import autocast

EVALUATION_BATCH = 100
"""Batch size for evaluation: the activations take about 25 MB of CPU memory."""
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
"""Optimizers with a fused implementation for CPU and CUDA; the others use `foreach`."""


class NonFiniteLoss(ArithmeticError):
    """The network has diverged: a loss is infinite or not a number."""

    def __init__(self, name: str, value: float, epoch: int) -> None:
        super().__init__(f"{name} is {value} in epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The images of a training, all on one device."""

    train: Images
    validation: Images | None
    """Held out of the training images. If set, the test images are used only after the last epoch.
    """
    test: Images
    n_classes: int
    classes: tuple[str, ...] = ()
    """The names of the classes by label; empty if they have none."""
    whites: Whites = field(default_factory=dict)
    """See `search.vision.datasets.pictures`; empty if all pictures had samples of 8 bits."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        n_train: int,
        n_held_out: int = 0,
        n_test: int | None = None,
        device: torch.device,
    ) -> "Splits":
        """Split a dataset: train on the first `n_train` images, hold out the last `n_held_out`.

        The first `n_test` test images are used; None for all.
        """
        total = len(dataset.train)
        assert n_train + n_held_out <= total, "guaranteed by Study.n_train"
        held_out = dataset.train.between(total - n_held_out, total) if n_held_out else None
        return cls(
            train=dataset.train.between(0, n_train).to(device),
            validation=held_out.to(device) if held_out else None,
            test=dataset.test.between(0, n_test or len(dataset.test)).to(device),
            n_classes=dataset.n_classes,
            classes=dataset.classes,
            whites=dataset.whites,
        )


class Training:
    """A network, its optimizer and its images, all on one device.

    `after_batch` is called after every training or evaluation batch, with the number of batches
    trained in this epoch (0 during evaluation); an exception from it stops the training.
    `measure_train` enables train loss and accuracy, which take a third of an epoch's time.
    """

    def __init__(
        self,
        network: Network,
        choices: Choices,
        splits: Splits,
        *,
        epochs: int,
        batch_size: int,
        seed: int,
        measure_train: bool = False,
        after_batch: Callable[[int], None] = lambda batches: None,
    ) -> None:
        parameters = list(network.parameters())
        self.network = network
        self.optimizer = make_optimizer(choices, parameters)
        self._choices = choices
        self._splits = splits
        self._epochs = epochs
        self._batch_size = batch_size
        self._seed = seed
        self._measure_train = measure_train
        self._after_batch = after_batch
        self._dtype = parameters[0].dtype
        self._device = parameters[0].device

    def fit(self, after: int = 0) -> Iterator[Epoch]:
        """Train from epoch `after` + 1 on, and yield each epoch's metrics.

        If `after` is above 0, the state of that epoch must have been loaded by `load_state_dict`.

        Raises:
            NonFiniteLoss: a loss of an epoch is infinite or not a number.
        """
        for number in range(after + 1, self._epochs + 1):
            start = time.perf_counter()
            metrics = {"batch_loss": self._train(number)}
            for split, images in self._measured(number):
                metrics[f"{split}_loss"], metrics[f"{split}_accuracy"] = self._evaluate(images)
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise NonFiniteLoss(name, value, number)
            yield Epoch(number=number, seconds=time.perf_counter() - start, **metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `fit` resumes: weights and optimizer state, not copied."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _measured(self, number: int) -> Iterator[tuple[str, Images]]:
        if self._measure_train:
            yield "train", self._splits.train
        if self._splits.validation is not None:
            yield "validation", self._splits.validation
        if self._splits.validation is None or number == self._epochs:
            yield "test", self._splits.test

    def _train(self, number: int) -> float:
        """Train one epoch and return the mean batch loss, synchronizing only at the end."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._choices, number, self._epochs)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", number))
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
            self._after_batch(done)
        return _total(losses) / len(order)

    @torch.inference_mode()
    def _evaluate(self, images: Images) -> tuple[float, float]:
        """Return the mean loss and the accuracy over `images` in eval mode."""
        losses, hits = [], []
        self.network.eval()
        for pixels, labels in images.batches(EVALUATION_BATCH, dtype=self._dtype):
            with autocast(self._device):
                scores = self.network(pixels)
                losses.append(F.cross_entropy(scores, labels, reduction="sum"))
            hits.append((scores.argmax(1) == labels).sum())
            self._after_batch(0)
        return _total(losses) / len(images), _total(hits) / len(images)

    def loss(
        self, images: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
    ) -> Tensor:
        """Return the cross-entropy of a batch as a scalar tensor, in bfloat16 autocast on CUDA."""
        with autocast(self._device):
            return F.cross_entropy(self.network(images), labels, reduction=reduction)


def make_network(choices: Choices, splits: Splits, *, seed: int, device: torch.device) -> Network:
    """Return a new network for `choices` and the images of `splits`, on `device`."""
    return build(
        choices,
        channels=splits.train.channels,
        size=splits.train.size,
        n_classes=splits.n_classes,
        seed=derive_seed(seed, "weights"),
    ).to(device)


def make_optimizer(choices: Choices, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer of `choices`, in the fastest implementation for the device."""
    options: dict[str, Any] = {"lr": choices.lr, "weight_decay": choices.weight_decay}
    if choices.optimizer == "SGD":
        options["momentum"] = 0.9
    if choices.optimizer in FUSED and parameters[0].device.type in ("cpu", "cuda"):
        options["fused"] = True
    else:
        options["foreach"] = True
    optimizer: torch.optim.Optimizer = getattr(torch.optim, choices.optimizer)(
        parameters, **options
    )
    return optimizer


def learning_rate(choices: Choices, number: int, epochs: int) -> float:
    """Return the learning rate of epoch `number` of `epochs`.

    The cosine schedule is `torch.optim.lr_scheduler.CosineAnnealingLR` with `T_max=epochs`: the
    full rate in the first epoch, decreasing toward 0 after the last.
    """
    if choices.schedule == "constant":
        return choices.lr
    return choices.lr * (1 + math.cos(math.pi * (number - 1) / epochs)) / 2


def _total(values: list[Tensor]) -> float:
    """Return the sum of scalar tensors, computed in float64 on the CPU."""
    return torch.stack(values).cpu().double().sum().item()
