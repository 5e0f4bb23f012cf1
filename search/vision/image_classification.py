"""The trainer of image classifiers, as a study names it.

No PyTorch here: a study is also loaded by commands that only read the database.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from typing_extensions import TypeVar

from search.errors import UserError
from search.study.dataset_spec import DatasetName
from search.study.metrics import split
from search.study.study import check_whole
from search.study.training import Place, Session, Trainer

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

C = TypeVar("C", default=Any)

Precision = Literal["float32", "bfloat16"]

METRICS = (
    *(
        f"{split}_{quantity}"
        for split in ("test", "validation", "train")
        for quantity in ("accuracy", "loss")
    ),
    "batch_loss",
)
"""What an epoch measures: accuracies from 0 to 1, and mean cross-entropies in nats, in eval mode
after the epoch, over the whole split; and `batch_loss`, the mean loss during the epoch."""


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """The shape of a network's input and output."""

    channels: int
    size: int
    """Height and width of the images, in pixels."""
    n_classes: int


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Trainer[C]):
    """Trains a network on labeled images, by cross-entropy.

    A new permutation of the images each epoch, pixels scaled to [-1, 1], no augmentation. The
    functions are given the trial's choices.

    Raises:
        UserError: the dataset is unknown, or a number is out of bounds.
    """

    dataset: str
    """`cifar10`, `digits`, `torchvision:NAME` or `folder:PATH`; see `search.study.dataset_spec`."""
    build: "Callable[[C, ImageShape], nn.Module]"
    """Returns the network on the CPU, which maps images (n, channels, size, size) to logits
    (n, n_classes)."""
    optimizer: "Callable[[C, nn.Module], Optimizer] | None" = None
    """Returns the optimizer; None for the one that the choices name, see
    `search.vision.optimizers`."""
    learning_rate: Callable[[C, int, int], float] | None = None
    """Returns the learning rate of an epoch (1-based) of so many; None for that of the optimizer.
    """
    batch_size: int = 32
    images: int | None = None
    """Number of training images and maximum number of test images, from the first; None for all."""
    precision: Precision | None = None
    """Of the products; weights are float32. None for bfloat16 on CUDA and float32 elsewhere. What
    the first worker uses belongs to the study's definition."""

    held_out = "training images"
    examples = "images"
    suffix = ".safetensors"
    metrics = METRICS

    def __post_init__(self) -> None:
        DatasetName.parse(self.dataset)
        for name in ("build", "optimizer", "learning_rate"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "build"):
                raise UserError(f"{name} must be a function, not {value!r}")
        check_whole("batch_size", self.batch_size, lowest=2)
        if self.images is not None:
            check_whole("images", self.images, lowest=2)
        if self.precision is not None and self.precision not in get_args(Precision):
            raise UserError(f"precision must be float32 or bfloat16, not {self.precision!r}")

    def settings(self) -> Mapping[str, object]:
        found = dict(super().settings())
        del found["precision"]  # the session tells which
        return found

    def in_precision(self, precision: str) -> Self:
        return replace(self, precision=cast(Precision, precision))

    @property
    def source(self) -> Callable[..., Any]:
        return self.build

    def open(self, place: Place) -> Session[C]:
        known = self._total
        if known is not None:
            self.n_train(known, place.metric)  # refused before downloading
        from search.vision.session import ImageSession

        return ImageSession.open(self, place)

    def n_held_out(self, total: int, metric: str) -> int:
        """Return how many of the last of `total` training images are held out for validation.

        This is a tenth, but at most `images`; 0 unless `metric` is measured on them.
        """
        return min(total // 10, self.images or total) if _is_validated(metric) else 0

    def n_test(self, total: int) -> int:
        """Return how many of the first of `total` test images are used."""
        return min(total, self.images or total)

    def n_train(self, total: int, metric: str) -> int:
        """Return how many of the first of `total` training images are used.

        Raises:
            UserError: there are too few, or the last batch would be a single image, which batch
                normalization does not accept.
        """
        available = total - self.n_held_out(total, metric)
        if _is_validated(metric) and available == total:
            raise UserError(
                f"--select validation: a tenth of {total} training images is less than one; "
                "give --select test"
            )
        if self.images is not None and self.images > available:
            raise UserError(f"--images {self.images}: there are {available} training images")
        n_train = self.images or available
        if n_train % self.batch_size == 1:
            raise UserError(
                f"{n_train} images in batches of {self.batch_size} leave a last batch of a single "
                f"image, which cannot be normalized; give --images {n_train - 1}"
            )
        return n_train

    def data_text(self, metric: str) -> str:
        where = self._images_text(metric)
        return where if self.precision != "bfloat16" else f"{where} in bfloat16"

    def _images_text(self, metric: str) -> str:
        total = self._total
        images = f"{total} images" if total else "images"
        if self.images not in (None, total):
            return f"the first {self.images} {f'of {images}' if total else 'images'}"
        if _is_validated(metric):
            return f"all {images} but the last tenth, held out for validation"
        return f"all {images}"

    def n_examples(self, metric: str) -> int | None:
        dataset = DatasetName.parse(self.dataset)
        match split(metric):
            case "test", "accuracy" if dataset.n_test is not None:
                return self.n_test(dataset.n_test)
            case "validation", "accuracy" if dataset.n_train is not None:
                return self.n_held_out(dataset.n_train, metric)
        return None

    def incomparable(self, dataset: str | None, metric: str) -> list[str]:
        reasons = []
        if dataset not in (None, self.dataset):
            reasons.append(f"{self.dataset} and not {dataset}")
        if self.images not in (None, self._total) or _is_validated(metric):
            reasons.append(self._images_text(metric))
        return reasons

    @property
    def _total(self) -> int | None:
        return DatasetName.parse(self.dataset).n_train


def _is_validated(metric: str) -> bool:
    return split(metric)[0] == "validation"
