"""What a study calls its dataset: `cifar10`, `digits`, `torchvision:NAME` or `folder:PATH`.

The last two may end in `?size=N`: height and width, in pixels, that the images are brought to.
Checked when a study is made, before any image is looked for.
"""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from search.errors import UserError

Kind = Literal["cifar10", "digits", "torchvision", "folder"]
SIZES = range(8, 257, 4)
"""The network halves a size twice; at 256, its first linear layer has 134 million weights."""
N_TRAIN = {"cifar10": 50_000, "digits": 1_438}
"""Training images of the datasets whose number is known before their files are there."""
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
"""The classes of `torchvision.datasets` that are known, and the argument that names their split:
those that download themselves, have images to train and to test on, and one class an image."""


@dataclass(frozen=True, kw_only=True)
class DatasetName:
    kind: Kind
    what: str
    """A class of `torchvision.datasets`, or the path of a folder; else empty."""
    size: int | None
    """Height and width in pixels; None for those that the dataset has by itself."""

    @property
    def n_train(self) -> int | None:
        """Number of its training images; None if only its files tell."""
        return N_TRAIN.get(self.kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `text` names.

        Raises:
            UserError: no dataset is called so, or its size does not fit the network.
        """
        kind, colon, rest = text.partition(":")
        if kind not in get_args(Kind) or bool(colon) != (kind in ("torchvision", "folder")):
            raise UserError(
                f"unknown dataset {text!r}; known: cifar10, digits, torchvision:NAME such as "
                "torchvision:FashionMNIST, folder:PATH"
            )
        what, asked, size = rest.rpartition("?size=") if "?size=" in rest else (rest, "", "")
        if kind == "torchvision" and what not in SPLITS:
            raise UserError(f"dataset {text}: torchvision:NAME is known for {', '.join(SPLITS)}")
        if kind == "folder" and not what:
            raise UserError(f"dataset {text}: a path comes after the colon, as in folder:flowers")
        # Its length first: Python reads no number of thousands of digits.
        if asked and not (len(size) <= 3 and size.isdecimal() and int(size) in SIZES):
            raise UserError(
                f"dataset {text}: a size is a multiple of 4 from {SIZES[0]} to {SIZES[-1]} "
                f"pixels, not {size!r}"
            )
        return cls(kind=cast(Kind, kind), what=what, size=int(size) if asked else None)
