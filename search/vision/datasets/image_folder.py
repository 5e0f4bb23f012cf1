"""A folder of pictures as a dataset: resized, and scaled to one range of brightness.

`folder_layout` finds the pictures, their classes and their splits. The images are in color if any
picture is.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from search.errors import UserError, printable
from search.vision.datasets import pictures
from search.vision.datasets.cache import FOLDER, Prepared, empty, kept
from search.vision.datasets.download import Say
from search.vision.datasets.folder_layout import LAYOUT, Layout, Sample
from search.vision.datasets.pictures import Kind

SIZE = 32
"""Default height and width of the images, in pixels."""
RULES = 2
"""Version of the rules that select pictures and convert them to pixels; part of the cache key."""


def load(path: str, size: int | None, root: Path, say: Say) -> Prepared:
    """Return the images of a folder; a relative `path` is relative to `root`.

    The cache is rebuilt when a file's name, size or modification time changes.

    Raises:
        UserError: the folder does not exist, its layout is invalid, or a file is corrupt.
    """
    folder = root / os.path.expanduser(path)  # noqa: PTH111  # keeps the name of an unknown user
    if not folder.is_dir():
        fault = "it is a file, not a folder:" if folder.is_file() else "there is no folder"
        raise UserError(
            f"dataset folder:{path}: {fault} {folder}; give a path below --data {root}, "
            f"or an absolute one, of a folder that contains {LAYOUT}"
        )
    try:
        layout = Layout.of(folder, ours=root / FOLDER)
        label = re.sub(r"[^\w.-]", "_", folder.resolve().name)[:40]
        name = f"{label}-{size or SIZE}-{_key(layout)[:16]}"
    except OSError as error:
        raise UserError(f"dataset folder:{path}: {error.filename}: {error.strerror}") from error
    return kept(root, name, lambda: _prepared(layout, size or SIZE, say))


def _key(layout: Layout) -> str:
    """Return a digest of the files' names, labels, sizes and times.

    It includes the change time, since copying or unpacking a file may set its modification time.
    """
    sha256 = hashlib.sha256(f"{RULES}\n".encode())
    for path, label in layout.train + layout.test:
        stat = path.stat()
        sha256.update(os.fsencode(path.relative_to(layout.folder)))
        sha256.update(f"/{label}/{stat.st_size}/{stat.st_mtime_ns}/{stat.st_ctime_ns}\n".encode())
    return sha256.hexdigest()


def _prepared(layout: Layout, size: int, say: Say) -> Prepared:
    samples = layout.train + layout.test
    n, n_train = len(samples), len(layout.train)
    say(printable(f"{layout.folder}: resizing {n} pictures to {size}×{size}"))
    for remark in layout.remarks:
        say(printable(remark))
    # Pillow decodes without Python's lock. Its warnings are harmless, such as for odd EXIF data.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        looks = list(pool.map(partial(_look, size=size), samples))
        if frames := sum(look.has_frames for look in looks):
            say(f"{frames} pictures have several frames or pages: the first is used")
        whites = _whites(looks, say)
        channels = 1 if all(look.is_gray for look in looks) else 3
        images, labels = empty(n, channels=channels, size=size)

        def pixels(sample: Sample) -> np.ndarray:
            with _opened(sample[0], size) as picture:
                return pictures.square(picture, size, channels, whites)

        for place, decoded in enumerate(pool.map(pixels, samples)):
            images[place] = torch.from_numpy(decoded)
            labels[place] = samples[place][1]
    made = Prepared(
        images=images,
        labels=labels,
        n_train=n_train,
        classes=tuple(layout.classes),
        whites=whites,
    )
    _report_copies(made, samples, say)
    return made


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Properties of a picture; those of all pictures must be known before any is resized."""

    path: Path
    is_gray: bool
    has_frames: bool
    kind: Kind | None
    peak: float
    """0 for 8-bit samples, whose white is always 255."""


def _look(sample: Sample, *, size: int) -> _Look:
    with _opened(sample[0], size) as picture:
        return _Look(
            path=sample[0],
            is_gray=picture.is_gray,
            has_frames=picture.has_frames,
            kind=picture.kind,
            peak=0 if picture.kind is None else picture.peak(),
        )


def _whites(looks: Sequence[_Look], say: Say) -> dict[str, float]:
    """Return, by kind, the value that becomes white in all pictures of that kind.

    Raises:
        UserError: pictures would be almost black.
    """
    whites: dict[str, float] = {}
    for kind in sorted({look.kind for look in looks if look.kind is not None}):
        ours = [look for look in looks if look.kind == kind]
        brightest = max(ours, key=lambda look: look.peak)
        with _named(brightest.path):
            most = pictures.white(kind, brightest.peak)
        whites[kind] = most
        black = [look for look in ours if 0 < look.peak < most / 16]
        if kind == "float" and black:
            raise UserError(
                f"{black[0].path}: its values end at {black[0].peak:g}, but those of "
                f"{brightest.path} at {brightest.peak:g}; scale all floats to one range, such as "
                "0 to 1"
            )
        dark = f"; {len(black)} of them are below a sixteenth of that" if black else ""
        say(
            f"{len(ours)} pictures have samples of more than 8 bits ({kind}): {most} is white{dark}"
        )
    return whites


def _report_copies(made: Prepared, samples: Sequence[Sample], say: Say) -> None:
    """Report how many resized test images are identical to a training image."""
    digests = [hashlib.sha256(image.numpy().data).digest() for image in made.images]
    n_train = made.n_train
    train = {digest: path for digest, (path, _) in zip(digests[:n_train], samples, strict=False)}
    copies = [
        (path, train[digest])
        for digest, (path, _) in zip(digests[n_train:], samples[n_train:], strict=True)
        if digest in train
    ]
    if copies:
        here, there = copies[0]
        say(
            printable(
                f"{len(copies)} of {len(samples) - n_train} test pictures are also in the training "
                f"set, pixel by pixel, such as {here}, which is {there}: test accuracy is too high"
            )
        )


@contextmanager
def _opened(path: Path, size: int) -> Iterator[pictures.Picture]:
    """Open a picture, and name its path in every error.

    Raises:
        UserError: the picture cannot be used.
    """
    try:
        with _named(path), pictures.opened(path, size) as picture:
            yield picture
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}; make it readable, or remove it") from error
    except Exception as error:
        cause = pictures.fault(error)
        raise UserError(
            f"{path}: this picture is corrupt or of a type that Pillow does not read ({cause}); "
            "repair, convert or remove it"
        ) from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
