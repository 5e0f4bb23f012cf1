"""Images brought to one size once, and kept in a file that is mapped into memory.

The file is a safetensors file below `--data`, so any number of processes share one copy of it.
Where the images are from is for `image_folder` and `torchvision_sets`.
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

from search.files import write_whole
from search.vision.datasets.download import data_folder
from search.vision.datasets.pictures import Whites

FOLDER = "prepared"
METADATA = "search"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    images: Tensor
    """(n, channels, size, size), uint8; those to train on come first."""
    labels: Tensor
    """(n,), int64."""
    n_train: int
    classes: tuple[str, ...]
    """The names of the classes by label."""
    whites: Whites = field(default_factory=dict)
    """See `search.vision.datasets.pictures`; empty if all pictures had samples of 8 bits."""

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all of it."""
        about = [self.n_train, self.classes, self.images.shape]
        sha256 = hashlib.sha256(json.dumps(about).encode())
        sha256.update(self.images.numpy().data)
        sha256.update(self.labels.numpy().data)
        return sha256.hexdigest()


def kept(root: Path, name: str, prepare: Callable[[], Prepared]) -> Prepared:
    """Return what is kept as `name` below `root`; have it prepared if it is not there, or damaged.

    Processes that call this together prepare once.

    Raises:
        UserError: the folder cannot be read or written to; or what `prepare` raises.
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
    """Map the file; None if there is none, or it is not as it was written."""
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
    write_whole(path, save(tensors, {METADATA: json.dumps(about)}))
    found = _read(path)
    assert found is not None, "it was written whole"
    return found


def empty(n: int, *, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Return room for `n` images and their labels."""
    images = torch.empty((n, channels, size, size), dtype=torch.uint8)
    return images, torch.empty(n, dtype=torch.int64)
