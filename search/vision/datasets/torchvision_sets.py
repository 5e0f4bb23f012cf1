"""Datasets of torchvision: found below `--data` or downloaded by it, and kept at one size.

Which are known is for `search.study.dataset_spec`. Images are in the order of the SHA-256 of their
numbers, since some datasets are ordered by class.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from search.errors import UserError
from search.study.dataset_spec import SIZES, SPLITS
from search.vision.datasets import pictures
from search.vision.datasets.cache import Prepared, empty, kept
from search.vision.datasets.download import (
    DOWNLOAD_ERRORS,
    Say,
    Unavailable,
    first_line,
    impatient_sockets,
    must_answer,
)
from search.vision.datasets.pictures import Picture

SIZE = 32
"""Height and width of photographs, in pixels, if none are given."""
SMALL = 96
"""Squares of this size or less, such as MNIST's 28, are kept as they are."""

VALUES: dict[str, tuple[object, object]] = {"train": (True, False), "split": ("train", "test")}
"""Of the argument that names the split: to train and to test on."""

Item = tuple[Image.Image, Any]
"""A picture and its label, a whole number of some kind."""
Split = Sequence[Item]


def load(name: str, size: int | None, root: Path, say: Say) -> Prepared:
    """Return the images of the class `name` of `torchvision.datasets`.

    Its files are taken from below `root`, from where torchvision puts them, if they are there.
    What is downloaded is not kept but for the images at their size.

    Raises:
        UserError: the files are neither there nor to be had, or a picture is corrupt.
    """
    return kept(root, f"{name}-{size or 'own'}", lambda: _prepared(name, size, root, say))


def _prepared(name: str, size: int | None, root: Path, say: Say) -> Prepared:
    with _splits(name, root, say) as (train, test):
        with _blaming(name, root):
            first, _ = train[0]
            is_grey = Picture.of(first).is_grey
        size = size or (first.height if _is_small_square(first) else SIZE)
        channels = 1 if is_grey else 3
        n = len(train) + len(test)
        say(f"{name}: bringing {n} images to {size}×{size}")
        images, labels = empty(n, channels=channels, size=size)
        with _blaming(name, root):
            for place, (picture, label) in enumerate(chain(_shuffled(train), _shuffled(test))):
                pixels = pictures.square(Picture.of(picture), size, channels, whites={})
                images[place] = torch.from_numpy(pixels)
                labels[place] = int(label)
        classes = getattr(train, "classes", range(int(labels.max()) + 1))
    return Prepared(
        images=images, labels=labels, n_train=len(train), classes=tuple(map(str, classes))
    )


@contextmanager
def _splits(name: str, root: Path, say: Say) -> Iterator[tuple[Split, Split]]:
    """Yield the images to train and to test on, downloaded if they are not below `root`.

    Raises:
        UserError: the files are neither there nor to be had.
    """
    try:
        splits = _constructed(name, root)
    except Exception as error:  # torchvision has many ways to say that files lack or are corrupt
        tried = first_line(error).partition(".")[0]
    else:
        yield splits
        return
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
        try:
            yield _downloaded(name, Path(scratch), say)
        except Unavailable as reason:
            raise UserError(
                f"dataset torchvision:{name} is neither in --data {root} ({tried}) nor to be had "
                f"({reason}). By hand: where there is a network, run {_by_hand(name)} and put what "
                f"is then in the folder {name}-files into {root}"
            ) from None


@contextmanager
def _blaming(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(
            f"dataset torchvision:{name}: a picture is corrupt ({pictures.fault(error)}); delete "
            f"its folder in --data {root} to have it fetched again"
        ) from error


def _constructed(name: str, root: Path, **options: Any) -> tuple[Split, Split]:
    import torchvision.datasets

    make = getattr(torchvision.datasets, name)
    train, test = (
        make(str(root), **{SPLITS[name]: which}, **options) for which in VALUES[SPLITS[name]]
    )
    return train, test


def _by_hand(name: str) -> str:
    """Return a command that downloads the files of both splits."""
    made = f'{name}("{name}-files", {SPLITS[name]}=x, download=True)'
    values = str(VALUES[SPLITS[name]]).replace("'", '"')
    return f"python -c 'from torchvision.datasets import {name}; [{made} for x in {values}]'"


def _downloaded(name: str, scratch: Path, say: Say) -> tuple[Split, Split]:
    url = _url(name)
    if url is not None:
        must_answer(url)
    say(f"{name}: downloading{f' from {url}' if url else ''}")
    try:
        with impatient_sockets():
            return _constructed(name, scratch, download=True)
    except DOWNLOAD_ERRORS as error:
        raise Unavailable(" ".join(str(error).split()) or type(error).__name__) from error


def _url(name: str) -> str | None:
    """Return an address that the class downloads from; None if it has it in its code alone."""
    import torchvision.datasets

    attributes = dict(vars(getattr(torchvision.datasets, name)), __doc__=None)
    found = re.search(r"https?://[^'\"]+", repr(attributes))  # each class has another name for it
    return found and found.group()


def _is_small_square(picture: Image.Image) -> bool:
    width, height = picture.size
    return width == height <= SMALL and height in SIZES


def _shuffled(split: Split) -> Iterator[Item]:
    order = sorted(range(len(split)), key=lambda n: hashlib.sha256(str(n).encode()).digest())
    return (split[number] for number in order)
