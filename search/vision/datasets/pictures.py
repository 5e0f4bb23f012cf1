"""One picture, of any size and kind, as the square of pixels that a network takes.

What a study is trained on and what its classifier is shown go the same way. Samples of 8 bits are
taken as they are. No file can be trusted to declare the range of floats and of samples of more
bits: 12 bits come in files of 16, and TIFF's SMaxSampleValue is a statistic of the one file. The
value that becomes white is therefore one for all pictures of a data set; see `white`.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from search.errors import UserError
from search.vision.datasets.download import first_line

Kind = Literal["integer", "float", "16-bit colour"]
"""Of samples that have more than 8 bits. Of 16-bit colours, Pillow reads the upper 8 bits only."""
Whites = Mapping[str, float]
"""By kind, the value that became white in the pictures that a network has learnt from."""

FULL: Whites = {"integer": 65535, "16-bit colour": 255}
"""What is white in a file that uses the upper half of its range."""
MOST_PIXELS = 2**30
"""Of a picture when it is decoded: 4 GiB of memory if it has colours."""
LARGE_PIXELS = 2**26
"""A larger picture is decoded alone: it takes 256 MiB and more."""
SAMPLE_FORMAT, PHOTOMETRIC = 339, 262
"""Tags of TIFF 6: https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml"""
STRAIGHT = {"La": "LA", "RGBa": "RGBA", "P": "RGBA"}
"""Modes that Pillow converts to grey or colours by way of another one only, or with a warning."""

_opening, _large = Lock(), Lock()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image that Pillow has opened, and need not have decoded yet."""

    image: Image.Image
    kind: Kind | None
    """None for samples of 8 bits or less."""

    @classmethod
    def of(cls, image: Image.Image) -> "Picture":
        """Return the picture.

        Raises:
            UserError: Pillow would read its samples wrongly.
        """
        kind = _kind(image)
        tags = getattr(image, "tag_v2", {})
        if image.mode == "L" and 2 in tags.get(SAMPLE_FORMAT, ()):
            raise UserError("its samples are signed bytes; save it with values from 0 to 255")
        if kind in ("integer", "float") and tags.get(PHOTOMETRIC) == 0:
            raise UserError("its 0 stands for white; save it with 0 for black")
        return cls(image=image, kind=kind)

    @property
    def is_grey(self) -> bool:
        """Whether it has one channel, besides that of its transparency."""
        return Image.getmodebase(self.image.mode) == "L"

    @property
    def has_frames(self) -> bool:
        """Whether it is an animation or has pages; a phone's MPO is a photograph with previews."""
        return getattr(self.image, "is_animated", False) and self.image.format != "MPO"

    def peak(self) -> float:
        """Return the largest sample; of 16-bit colours, the upper 8 bits of it.

        Raises:
            UserError: a sample is negative, infinite or not a number.
        """
        if self.kind == "16-bit colour":
            return float(np.asarray(self.image.convert("RGB")).max())
        samples = np.asarray(self.image)
        lowest, highest = float(samples.min()), float(samples.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise UserError("some of its values are infinite or not a number; replace them")
        if lowest < 0:
            raise UserError(f"its values begin at {lowest:g}, and black is 0; shift them")
        return highest


@contextmanager
def opened(path: str | Path, size: int) -> Iterator[Picture]:
    """Yield the picture in a file that is to become `size` pixels wide and high.

    A large JPEG file is decoded at down to twice that size, in a fraction of the time. Of an
    animation or of several pages, it is the first.

    Raises:
        UserError: it has too many pixels, or Pillow would read its samples wrongly; or the memory
            does not suffice for what is done within.
        Exception: the file is not there, or it is corrupt in one of many ways.
    """
    with _of_any_size(path) as image:
        image.draft(None, (2 * size, 2 * size))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise UserError(
                f"it has {width}×{height} pixels, and the most is {MOST_PIXELS}; make it smaller"
            )
        with _large if width * height > LARGE_PIXELS else nullcontext():
            try:
                yield Picture.of(image)
            except MemoryError as error:
                raise UserError(
                    f"there is not enough memory for {width}×{height} pixels; make it smaller"
                ) from error


def _of_any_size(path: str | Path) -> Image.Image:
    """Open a file without Pillow's limit of 179 million pixels, which is there for web servers."""
    if Path(path).stat().st_size == 0:
        raise ValueError("the file is empty")
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _kind(image: Image.Image) -> Kind | None:
    if image.mode == "F":
        return "float"
    if image.mode.startswith("I"):
        return "integer"
    for tile in getattr(image, "tile", []):  # which tell how to decode it; none once it is decoded
        is_deep_ppm = tile.codec_name.startswith("ppm") and tile.args[1] > 255
        if is_deep_ppm or ";16" in str(tile.args):
            return "16-bit colour"
    return None


def fault(error: Exception) -> str:
    """Return why a picture cannot be read, in one line; Pillow has many ways to say so."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known kind"
    return first_line(error)


def white(kind: Kind, peak: float) -> int:
    """Return the value that becomes white where no picture has a sample above `peak`.

    It is the smallest of 1, 3, 7, …, 255, …, 4095, …, 65535, … that is not below it: 1 for floats
    from 0 to 1, 4095 for 12 bits in a file of 16. 16-bit colours have all of their range.

    Raises:
        UserError: nearly all of what the pictures show would be lost.
    """
    if kind == "16-bit colour":
        if 0 < peak < 64:
            raise UserError(
                "its 16-bit colours stay in the lowest quarter of their range, as those of 12 "
                "bits do; save it with 8 bits, or scaled to 16"
            )
        return 255
    found = (1 << max(math.ceil(peak).bit_length(), 1)) - 1
    if 0 < peak < found / 16:
        raise UserError(f"its values end at {peak:g}, and white is {found}; scale them to 0 to 1")
    return found


def square(picture: Picture, size: int, channels: int, whites: Whites) -> np.ndarray:
    """Return the picture's middle square, upright, as (channels, size, size), uint8.

    Three channels are red, green and blue; one is grey. Transparency is dropped.

    Raises:
        UserError: no network that has learnt with `whites` can tell what is white in it.
    """
    upright = _upright(picture.image)
    if picture.kind is not None:
        most = _white_of(picture, picture.kind, whites)
        if picture.kind != "16-bit colour":
            samples = np.asarray(upright) * np.float64(255 / most)
            upright = Image.fromarray(np.rint(samples).astype(np.uint8))
    image = _in_mode(upright, STRAIGHT.get(upright.mode, upright.mode))
    if channels == 3 or not picture.is_grey:
        image = _in_mode(image, "RGB")
    if channels == 1:
        image = _in_mode(image, "L")
    pixels = np.array(ImageOps.fit(image, (size, size)))  # (size, size) or (size, size, 3)
    return np.ascontiguousarray(pixels.reshape(size, size, channels).transpose(2, 0, 1))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a PNG file may have its EXIF data behind its pixels
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if is_turned else image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return the image itself if it has the mode: a copy of a large one may not fit in memory."""
    return image if image.mode == mode else image.convert(mode)


def _white_of(picture: Picture, kind: Kind, whites: Whites) -> float:
    peak = picture.peak()
    if kind in whites:
        if peak > whites[kind]:
            raise UserError(
                f"it has a value of {peak:g}, and white was {whites[kind]:g} in the pictures that "
                "the network has learnt from; scale it as they were"
            )
        return whites[kind]
    most = white(kind, peak)
    if most != FULL.get(kind):
        raise UserError(
            f"its samples are of the kind {kind}, from which the network has not learnt, and what "
            "is white in it cannot be told from one picture; save it with 8 bits"
        )
    return most
