"""Dataset names: `cifar10`, `digits`, `torchvision:NAME` or `folder:PATH`.

The last two may end in `?size=N`: the height and width, in pixels, to which images are resized.
A name is checked when the study is created, before any image is read.
"""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from search.errors import UserError

Kind = Literal["cifar10", "digits", "torchvision", "folder"]
SIZES = range(8, 257, 4)
"""The network halves the size twice; at 256, its first linear layer has 134 million weights."""
N_TRAIN = {"cifar10": 50_000, "digits": 1_438}
"""Number of training images of the datasets for which it is known in advance."""
N_TEST = {"cifar10": 10_000, "digits": 359}
"""Number of test images of these."""
SPLITS = {
    "CIFAR100": "train",
    "Country211": "split",
    "DTD": "split",
    "FashionMNIST": "train",
    "FGVCAircraft": "split",
    "Flowers102": "split",
    "Food101": "split",
    "GTSRB": "split",
    "KMNIST": "train",
    "MNIST": "train",
    "RenderedSST2": "split",
    "STL10": "split",
    "SVHN": "split",
    "USPS": "train",
}
"""The supported classes of `torchvision.datasets`, and the argument that selects their split. They
can be downloaded, have a training and a test set, and have one label per image."""


@dataclass(frozen=True, kw_only=True)
class DatasetName:
    kind: Kind
    what: str
    """A class of `torchvision.datasets`, or the path of a folder; otherwise empty."""
    size: int | None
    """Height and width in pixels; None for the dataset's default."""

    @property
    def n_train(self) -> int | None:
        """Number of training images; None if it is unknown before the files are read."""
        return N_TRAIN.get(self.kind)

    @property
    def n_test(self) -> int | None:
        """Number of test images; None if it is unknown before the files are read."""
        return N_TEST.get(self.kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a dataset name.

        Raises:
            UserError: the name is unknown, or the size does not fit the network.
        """
        kind, colon, rest = text.partition(":")
        if kind not in get_args(Kind) or bool(colon) != (kind in ("torchvision", "folder")):
            raise UserError(
                f"unknown dataset {text!r}; known: cifar10, digits, torchvision:NAME such as "
                "torchvision:FashionMNIST, folder:PATH"
            )
        what, asked, size = rest.rpartition("?size=") if "?size=" in rest else (rest, "", "")
        if kind == "torchvision" and what not in SPLITS:
            raise UserError(f"dataset {text}: torchvision:NAME supports {', '.join(SPLITS)}")
        if kind == "folder" and not what:
            raise UserError(f"dataset {text}: give a path after the colon, as in folder:flowers")
        # Check the length first: `int` raises for thousands of digits.
        if asked and not (len(size) <= 3 and size.isdecimal() and int(size) in SIZES):
            raise UserError(
                f"dataset {text}: the size must be a multiple of 4 from {SIZES[0]} to {SIZES[-1]} "
                f"pixels, not {size!r}"
            )
        return cls(kind=cast(Kind, kind), what=what, size=int(size) if asked else None)
