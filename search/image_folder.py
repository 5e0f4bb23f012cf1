"""A folder of pictures as a dataset: `CLASS/*.png`, or `train/CLASS/*.png` and `test/CLASS/*.png`.

The layout is that of `torchvision.datasets.ImageFolder`. Without folders `train` and `test`, a
fifth of each class is the test set: those whose names have the lowest SHA-256. Images are in the
order of these sums too, so that the first and the last ones are of all classes. Colours are kept
if any picture has them.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from search import pictures
from search.errors import UserError
from search.fetching import Say
from search.prepared import Prepared, empty, kept

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of `torchvision.datasets.folder.IMG_EXTENSIONS`; other files are left alone."""
SIZE = 32
"""Height and width of the images, in pixels, if none are given."""
LAYOUT = "CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png"

Sample = tuple[Path, int]
"""A picture and the label of its class."""


def load(path: str, size: int | None, root: Path, say: Say) -> Prepared:
    """Return the images of the folder, which is looked for below `root` unless it is absolute.

    They are prepared again when a file's name, size or time of change is another one.

    Raises:
        UserError: there is no such folder, its layout is another one, or a file is corrupt.
    """
    folder = root / os.path.expanduser(path)  # noqa: PTH111  # which leaves an unknown user's name
    if not folder.is_dir():
        raise UserError(
            f"dataset folder:{path}: there is no folder {folder}; name one below --data {root}, "
            f"or an absolute path, that holds {LAYOUT}"
        )
    try:
        found = _Found.in_folder(folder)
        name = f"{folder.resolve().name}-{size or SIZE}-{found.key()[:16]}"
    except OSError as error:
        raise UserError(f"dataset folder:{path}: {error.filename}: {error.strerror}") from error
    return kept(root, name, lambda: _prepared(found, size or SIZE, say))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The pictures of a folder, in the order in which a training takes them."""

    folder: Path
    classes: list[str]
    train: list[Sample]
    test: list[Sample]

    @classmethod
    def in_folder(cls, folder: Path) -> "_Found":
        if {"train", "test"} <= {path.name for path in _folders(folder)}:
            parents = folder / "train", folder / "test"
            train, test = map(_by_class, parents)
            if unknown := test.keys() - train.keys():
                raise UserError(
                    f"{folder / 'test' / min(unknown)}: {folder / 'train'} has no class of this "
                    "name; give both the same"
                )
        else:
            parents = folder, folder
            train, test = _split(_by_class(folder), folder)
        if len(train) < 2:
            raise UserError(
                f"{folder}: classes are folders, and at least two are needed, not {len(train)}; "
                f"a folder of images holds {LAYOUT}"
            )
        classes = list(train)
        return cls(
            folder=folder,
            classes=classes,
            train=_samples(train, classes, parents[0]),
            test=_samples(test, classes, parents[1]),
        )

    def key(self) -> str:
        """Return what is another one when a file has changed, as far as its folder tells."""
        sha256 = hashlib.sha256()
        for path, label in self.train + self.test:
            stat = path.stat()
            sha256.update(os.fsencode(path.relative_to(self.folder)))
            sha256.update(f"/{label}/{stat.st_size}/{stat.st_mtime_ns}\n".encode())
        return sha256.hexdigest()


def _folders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    return sorted(found)


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures of each class, in the order of their names' SHA-256.

    Raises:
        UserError: a class has none.
    """
    found = {}
    for place in _folders(folder):
        paths = [
            path
            for path in place.rglob("*")
            if path.suffix.lower() in ENDINGS and path.name[0] != "." and path.is_file()
        ]
        if not paths:
            raise UserError(
                f"{place}: this class has no pictures ({', '.join(ENDINGS)}); add some, or remove "
                "the folder"
            )
        found[place.name] = sorted(paths, key=lambda path: _sum(path, folder))
    return found


def _split(
    by_class: Mapping[str, list[Path]], folder: Path
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Return the pictures to train on, and a fifth of each class to test on.

    Raises:
        UserError: a class has a single picture.
    """
    train, test = {}, {}
    for name, paths in by_class.items():
        if len(paths) == 1:
            raise UserError(
                f"{folder / name}: this class has one picture, and one to train on and one to "
                "test on are needed; add some"
            )
        n_test = max(len(paths) // 5, 1)
        train[name], test[name] = paths[n_test:], paths[:n_test]
    return train, test


def _samples(by_class: Mapping[str, list[Path]], classes: list[str], folder: Path) -> list[Sample]:
    """Return the pictures of all classes, in the order of their names' SHA-256."""
    samples = [(path, classes.index(name)) for name, paths in by_class.items() for path in paths]
    return sorted(samples, key=lambda sample: _sum(sample[0], folder))


def _sum(path: Path, folder: Path) -> str:
    return hashlib.sha256(os.fsencode(path.relative_to(folder))).hexdigest()


def _prepared(found: _Found, size: int, say: Say) -> Prepared:
    samples = found.train + found.test
    say(f"{found.folder}: bringing {len(samples)} pictures to {size}×{size}")
    channels = 1 if all(_is_grey(path) for path, _ in samples) else 3
    images, labels = empty(len(samples), channels=channels, size=size)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        decoded = pool.map(lambda sample: _pixels(sample[0], size, channels), samples)
        for place, pixels in enumerate(decoded):
            images[place] = torch.from_numpy(pixels)
            labels[place] = samples[place][1]
    return Prepared(
        images=images, labels=labels, n_train=len(found.train), classes=tuple(found.classes)
    )


def _is_grey(path: Path) -> bool:
    with _blaming(path), Image.open(path) as picture:
        return pictures.is_grey(picture)


def _pixels(path: Path, size: int, channels: int) -> np.ndarray:
    with _blaming(path):
        return pictures.square(pictures.opened(path, size), size, channels)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = pictures.fault(error)
        raise UserError(f"{path}: this picture is corrupt ({cause}); mend or remove it") from error
