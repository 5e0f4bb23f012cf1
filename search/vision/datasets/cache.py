"""Cache of resized images.

The cache is a safetensors file below `--data`, mapped into memory so that all processes share one
copy. `image_folder` and `torchvision_sets` provide the images.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from search.files import write_atomic
from search.vision.datasets.download import data_folder
from search.vision.datasets.pictures import Whites

FOLDER = "prepared"
METADATA = "search"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    images: Tensor
    """(n, channels, size, size), uint8; the training images come first."""
    labels: Tensor
    """(n,), int64."""
    n_train: int
    classes: tuple[str, ...]
    """Class names by label."""
    whites: Whites = field(default_factory=dict)
    """See `search.vision.datasets.pictures`; empty if all pictures had 8-bit samples."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images, labels, class names and the number of training images."""
        about = [self.n_train, self.classes, self.images.shape]
        sha256 = hashlib.sha256(json.dumps(about).encode())
        sha256.update(self.images.numpy().data)
        sha256.update(self.labels.numpy().data)
        return sha256.hexdigest()


def kept(root: Path, name: str, prepare: Callable[[], Prepared]) -> Prepared:
    """Return the cached images `name` below `root`; call `prepare` if they are missing or damaged.

    If several processes call this at the same time, only one prepares the images.

    Raises:
        UserError: the folder cannot be read or written to, or `prepare` raises it.
    """
    path = root / FOLDER / f"{name}.safetensors"
    with data_folder(root):
        path.parent.mkdir(exist_ok=True)
        there = _read(path)
        if there is None:
            with FileLock(path.parent / ".lock"):
                there = _read(path) or _written(path, prepare())
    return there


def _read(path: Path) -> Prepared | None:
    """Map the file; return None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[METADATA])
            found = Prepared(
                images=file.get_tensor("images"),
                labels=file.get_tensor("labels"),
                n_train=about["n_train"],
                classes=tuple(about["classes"]),
                whites=about["whites"],
            )
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    return found if found.digest == about["digest"] else None


def _written(path: Path, made: Prepared) -> Prepared:
    about = {
        "n_train": made.n_train,
        "classes": made.classes,
        "whites": made.whites,
        "digest": made.digest,
    }
    tensors = {"images": made.images, "labels": made.labels}
    write_atomic(path, save(tensors, {METADATA: json.dumps(about)}))
    found = _read(path)
    assert found is not None, "the file was just written"
    return found


def empty(n: int, *, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Allocate `n` images and their labels."""
    images = torch.empty((n, channels, size, size), dtype=torch.uint8)
    return images, torch.empty(n, dtype=torch.int64)
