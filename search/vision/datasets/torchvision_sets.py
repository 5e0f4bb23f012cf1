"""Datasets of torchvision: read from below `--data` or downloaded, resized and cached.

`search.study.dataset_spec` lists the supported ones. Images are sorted by the SHA-256 of their
indices, since some datasets are ordered by class.
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
    must_answer,
    socket_timeout,
)
from search.vision.datasets.pictures import Picture

SIZE = 32
"""Default height and width of photographs, in pixels."""
SMALL = 96
"""Squares up to this size, such as MNIST's 28, are not resized by default."""

VALUES: dict[str, tuple[object, object]] = {"train": (True, False), "split": ("train", "test")}
"""Values, for the training and the test set, of the argument that selects the split."""

Item = tuple[Image.Image, Any]
"""A picture and its label, an integer of any type."""
Split = Sequence[Item]


def load(name: str, size: int | None, root: Path, say: Say) -> Prepared:
    """Return the images of the class `name` of `torchvision.datasets`.

    Files below `root` are used if they are where torchvision puts them. Downloaded files are
    deleted; only the resized images are kept.

    Raises:
        UserError: the files are missing and cannot be downloaded, or a picture is corrupt.
    """
    return kept(root, f"{name}-{size or 'own'}", lambda: _prepared(name, size, root, say))


def _prepared(name: str, size: int | None, root: Path, say: Say) -> Prepared:
    with _splits(name, root, say) as (train, test):
        with _blaming(name, root):
            first, _ = train[0]
            is_gray = Picture.of(first).is_gray
        size = size or (first.height if _is_small_square(first) else SIZE)
        channels = 1 if is_gray else 3
        n = len(train) + len(test)
        say(f"{name}: resizing {n} images to {size}×{size}")
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
    """Yield the training and the test images, downloaded if they are not below `root`.

    Raises:
        UserError: the files are missing and cannot be downloaded.
    """
    try:
        splits = _constructed(name, root)
    except Exception as error:  # torchvision raises many types for missing or corrupt files
        tried = first_line(error).partition(".")[0]
    else:
        yield splits
        return
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
        try:
            yield _downloaded(name, Path(scratch), say)
        except Unavailable as reason:
            raise UserError(
                f"dataset torchvision:{name} was not found in --data {root} ({tried}) and could "
                f"not be downloaded ({reason}). To install it manually, run {_by_hand(name)} on a "
                f"machine with network access, and move the content of {name}-files to {root}"
            ) from None


@contextmanager
def _blaming(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(
            f"dataset torchvision:{name}: a picture is corrupt ({pictures.fault(error)}); delete "
            f"its folder in --data {root} to download it again"
        ) from error


def _constructed(name: str, root: Path, **options: Any) -> tuple[Split, Split]:
    import torchvision.datasets

    make = getattr(torchvision.datasets, name)
    train, test = (
        make(str(root), **{SPLITS[name]: which}, **options) for which in VALUES[SPLITS[name]]
    )
    return train, test


def _by_hand(name: str) -> str:
    """Return a shell command that downloads the files of both splits."""
    made = f'{name}("{name}-files", {SPLITS[name]}=x, download=True)'
    values = str(VALUES[SPLITS[name]]).replace("'", '"')
    return f"python -c 'from torchvision.datasets import {name}; [{made} for x in {values}]'"


def _downloaded(name: str, scratch: Path, say: Say) -> tuple[Split, Split]:
    url = _url(name)
    if url is not None:
        must_answer(url)
    say(f"{name}: downloading{f' from {url}' if url else ''}")
    try:
        with socket_timeout():
            return _constructed(name, scratch, download=True)
    except DOWNLOAD_ERRORS as error:
        raise Unavailable(" ".join(str(error).split()) or type(error).__name__) from error


def _url(name: str) -> str | None:
    """Return a URL from which the class downloads; None if no class attribute has one."""
    import torchvision.datasets

    attributes = dict(vars(getattr(torchvision.datasets, name)), __doc__=None)
    found = re.search(r"https?://[^'\"]+", repr(attributes))  # the attribute's name varies
    return found and found.group()


def _is_small_square(picture: Image.Image) -> bool:
    width, height = picture.size
    return width == height <= SMALL and height in SIZES


def _shuffled(split: Split) -> Iterator[Item]:
    order = sorted(range(len(split)), key=lambda n: hashlib.sha256(str(n).encode()).digest())
    return (split[number] for number in order)
