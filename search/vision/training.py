"""One network trained.

`Training.fit` is a generator: an epoch of training, then its figures. What is done with them
(recorded, compared, stopped) is for the caller. Every random draw comes from the seed and the
number of the epoch, so that a training resumed after any epoch goes on as if it had not stopped.
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

EVALUATED_AT_ONCE = 100
"""Images in a batch of evaluation: their activations take about 25 MB of CPU memory."""
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
"""Optimizers whose step PyTorch has as one kernel, for CPU and CUDA; the others loop by operation
over all tensors (foreach)."""


class NonFiniteLoss(ArithmeticError):
    """The network has diverged: a loss is infinite or not a number."""

    def __init__(self, name: str, value: float, epoch: int) -> None:
        super().__init__(f"{name} is {value} in epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What a training trains on and is measured on, all on one device."""

    train: Images
    validation: Images | None
    """Held out of the training images; with it, test images are used after the last epoch only."""
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
        """Train on the first `n_train` images of `dataset`, hold out the last `n_held_out`.

        The first `n_test` test images are tested on; None for all.
        """
        total = len(dataset.train)
        assert n_train + n_held_out <= total, "Study.n_train has seen to it"
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

    `after_batch` is called after every batch, of training and of evaluation, with the number of
    batches trained in this epoch; what it raises ends the training there. `measure_train` asks for
    train loss and accuracy, which cost a third of an epoch.
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
        """Train on from epoch `after` + 1 and yield each epoch's figures.

        For `after` above 0, `load_state_dict` must have brought back the state of that epoch.

        Raises:
            NonFiniteLoss: an epoch ended with a loss that is infinite or not a number.
        """
        for number in range(after + 1, self._epochs + 1):
            start = time.perf_counter()
            figures = {"batch_loss": self._train(number)}
            for split, images in self._measured(number):
                figures[f"{split}_loss"], figures[f"{split}_accuracy"] = self._evaluate(images)
            for name, value in figures.items():
                if not math.isfinite(value):
                    raise NonFiniteLoss(name, value, number)
            yield Epoch(number=number, seconds=time.perf_counter() - start, **figures)

    def state_dict(self) -> dict[str, Any]:
        """Return what `fit` needs to go on: weights and optimizer state, not copied."""
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
        """Train one epoch and return the mean batch loss; wait for the device once, at the end."""
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
        """Return mean loss and accuracy over `images` in eval mode."""
        losses, hits = [], []
        self.network.eval()
        for pixels, labels in images.batches(EVALUATED_AT_ONCE, dtype=self._dtype):
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
    """Return the network of `choices` for the images of `splits`, on `device`."""
    return build(
        choices,
        channels=splits.train.channels,
        size=splits.train.size,
        n_classes=splits.n_classes,
        seed=derive_seed(seed, "weights"),
    ).to(device)


def make_optimizer(choices: Choices, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer of `choices` in PyTorch's fastest form for the parameters' device."""
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

    The cosine is that of `torch.optim.lr_scheduler.CosineAnnealingLR` with `T_max=epochs`: the
    full rate in the first epoch, towards 0 after the last.
    """
    if choices.schedule == "constant":
        return choices.lr
    return choices.lr * (1 + math.cos(math.pi * (number - 1) / epochs)) / 2


def _total(values: list[Tensor]) -> float:
    """Return the sum of scalar tensors, added in float64 on the CPU."""
    return torch.stack(values).cpu().double().sum().item()
