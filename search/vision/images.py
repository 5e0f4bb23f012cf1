"""Image datasets for training: uint8 in memory, float in batches.

On a CPU, the files are mapped into memory, so that all processes share one copy. On an accelerator,
the images are copied to the device once, as uint8. The modules of `search.vision.datasets` provide
the files.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from search.study.dataset_spec import DatasetName
from search.vision.datasets import cifar10, image_folder, torchvision_sets
from search.vision.datasets.cache import Prepared
from search.vision.datasets.pictures import Whites

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
GATHERED_BATCHES = 64
"""Number of batches whose images are gathered at once, in one pass over the files."""


@dataclass(frozen=True)
class Images:
    """Labeled images of one split, in one or more parts, each a separate tensor."""

    parts: tuple[Tensor, ...]
    """Each (n, channels, height, width), uint8; all on the device of `labels`."""
    labels: Tensor
    """(n,), int64."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.parts[0].shape[1]

    @property
    def size(self) -> int:
        """Height and width, in pixels."""
        return self.parts[0].shape[2]

    def between(self, start: int, stop: int) -> "Images":
        """Return images `start` to `stop - 1`, without copying."""
        parts, first = [], 0
        for part in self.parts:
            parts.append(part[max(start - first, 0) : max(stop - first, 0)])
            first += len(part)
        return Images(tuple(part for part in parts if len(part)), self.labels[start:stop])

    def to(self, device: torch.device) -> "Images":
        """Return these images if they are on `device`, otherwise a copy in one part.

        Images on the CPU stay mapped files, which all processes share.
        """
        if device == self.labels.device:
            return self
        return Images((torch.cat(self.parts).to(device),), self.labels.to(device))

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches (images, labels), with channels-last images scaled to [-1, 1].

        `order` is a tensor of image indices, on any device; None for all images in their order.
        Images have shape (batch, channels, height, width), labels (batch,) and int64. The last
        batch may be smaller: with `order`, of all images, otherwise of each part.
        """
        if order is None:
            labels = iter(self.labels.split([len(part) for part in self.parts]))
            for part in self.parts:
                pairs = zip(part.split(batch_size), next(labels).split(batch_size), strict=True)
                for pixels, targets in pairs:
                    yield scaled(pixels, dtype), targets
            return
        for index in order.to(self.labels.device).split(batch_size * GATHERED_BATCHES):
            gathered = self._gather(index).split(batch_size)
            for pixels, targets in zip(gathered, self.labels[index].split(batch_size), strict=True):
                yield scaled(pixels, dtype), targets

    def _gather(self, index: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0][index]
        gathered = self.parts[0].new_empty((len(index), *self.parts[0].shape[1:]))
        first = 0
        for part in self.parts:
            here = (index >= first) & (index < first + len(part))
            gathered[here] = part[index[here] - first]
            first += len(part)
        return gathered


@dataclass(frozen=True)
class Dataset:
    """Training and test images."""

    train: Images
    test: Images
    n_classes: int
    digest: str
    """Digest of the content: datasets with the same digest hold the same images."""
    classes: tuple[str, ...] = ()
    """Class names by label; empty if the classes have no names."""
    whites: Whites = field(default_factory=dict)
    """See `search.vision.datasets.pictures`; empty if all pictures had 8-bit samples."""


def load_dataset(name: str, root: Path, say: Callable[[str], None] = print) -> Dataset:
    """Load the dataset `name` from below `root`, downloading it there if necessary.

    `say` is called with a line of text for slow steps and skipped files. Several processes may call
    this at the same time.

    Raises:
        UserError: the name is unknown, or the files are missing and cannot be downloaded.
    """
    named = DatasetName.parse(name)
    if named.kind == "cifar10":
        return _cifar10(root, say)
    if named.kind == "digits":
        return _digits()
    source = torchvision_sets if named.kind == "torchvision" else image_folder
    return _divided(source.load(named.what, named.size, root, say))


def _divided(prepared: Prepared, digest: str | None = None) -> Dataset:
    """Return the training and test images; `digest` instead of that of `prepared`, if given."""
    everything = Images((prepared.images,), prepared.labels)
    return Dataset(
        everything.between(0, prepared.n_train),
        everything.between(prepared.n_train, len(everything)),
        n_classes=len(prepared.classes),
        digest=digest or prepared.digest,
        classes=prepared.classes,
        whites=prepared.whites,
    )


def _cifar10(root: Path, say: Callable[[str], None]) -> Dataset:
    """50,000 training and 10,000 test images in color, 32×32, in ten classes; Krizhevsky, 2009."""
    *train, test = [_mapped(path) for path in cifar10.files(root, say)]
    digest = hashlib.sha256("".join(cifar10.MD5.values()).encode()).hexdigest()
    return Dataset(
        _images(train), _images([test]), n_classes=10, digest=digest, classes=CIFAR10_CLASSES
    )


def _mapped(path: Path) -> Tensor:
    """Map a file in CIFAR-10's binary format, without copying: (n, 1 + 3·32·32) uint8."""
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(
        -1, cifar10.RECORD_BYTES
    )


def _images(records: list[Tensor]) -> Images:
    labels = torch.cat([part[:, 0] for part in records]).long()
    return Images(tuple(part[:, 1:].unflatten(1, (3, 32, 32)) for part in records), labels)


def _digits() -> Dataset:
    """1,797 gray images of 8×8 in ten classes; the last fifth, 359 images, is the test set.

    Source: https://archive.ics.uci.edu/dataset/80, the part that scikit-learn ships. The images
    are grouped by writer, so few writers are in both sets.
    """
    # Read the file directly: importing scikit-learn takes longer than some trials of the digits.
    package = find_spec("sklearn")
    assert package is not None, "the project requires scikit-learn"
    assert package.origin is not None, "scikit-learn is not a namespace package"
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = torch.from_numpy(np.loadtxt(file, dtype=np.int64, delimiter=","))
    pixels, labels = rows[:, :-1].view(-1, 1, 8, 8), rows[:, -1].contiguous()
    gray = pixels.mul(255 / 16).round().to(torch.uint8)
    digest = hashlib.sha256(gray.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    n_train = len(gray) - len(gray) // 5
    made = Prepared(images=gray, labels=labels, n_train=n_train, classes=tuple("0123456789"))
    return _divided(made, digest)


def scaled(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `pixels` / 127.5 - 1 in channels-last format: (n, channels, height, width)."""
    return pixels.to(dtype, memory_format=torch.channels_last).mul_(2 / 255).sub_(1)
