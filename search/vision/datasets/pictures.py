"""Conversion of a picture of any size and type to a square of 8-bit pixels.

Training and classification use the same conversion. 8-bit samples are used unchanged. For floats
and for samples of more than 8 bits, a file does not reliably declare its range: 12-bit samples are
stored in 16 bits, and TIFF's SMaxSampleValue is a statistic of the single file. The value that
becomes white is therefore the same for all pictures of a dataset; see `white`.
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
"""Type of samples of more than 8 bits. Pillow reads only the upper 8 bits of 16-bit colors."""
Whites = Mapping[str, float]
"""By kind, the value that became white in the training pictures."""

FULL: Whites = {"integer": 65535, "16-bit colour": 255}
"""The value of white in a file that uses the upper half of its range."""
MOST_PIXELS = 2**30
"""Maximum number of pixels of a decoded picture: 4 GiB of memory in color."""
LARGE_PIXELS = 2**26
"""Larger pictures take at least 256 MiB of memory and are decoded one at a time."""
SAMPLE_FORMAT, PHOTOMETRIC = 339, 262
"""Tags of TIFF 6: https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml"""
STRAIGHT = {"La": "LA", "RGBa": "RGBA", "P": "RGBA"}
"""Modes that Pillow converts to gray or color only through another mode, or with a warning."""

_opening, _large = Lock(), Lock()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image that Pillow has opened, but not necessarily decoded."""

    image: Image.Image
    kind: Kind | None
    """None for samples of at most 8 bits."""

    @classmethod
    def of(cls, image: Image.Image) -> "Picture":
        """Return the picture of an image.

        Raises:
            UserError: Pillow would misread its samples.
        """
        kind = _kind(image)
        tags = getattr(image, "tag_v2", {})
        if image.mode == "L" and 2 in tags.get(SAMPLE_FORMAT, ()):
            raise UserError("its samples are signed bytes; save it with values from 0 to 255")
        if kind in ("integer", "float") and tags.get(PHOTOMETRIC) == 0:
            raise UserError("its 0 means white; save it with 0 for black")
        return cls(image=image, kind=kind)

    @property
    def is_gray(self) -> bool:
        """Whether it has one channel, not counting transparency."""
        return Image.getmodebase(self.image.mode) == "L"

    @property
    def has_frames(self) -> bool:
        """Whether it is an animation or has pages; an MPO file is one photograph with previews."""
        return getattr(self.image, "is_animated", False) and self.image.format != "MPO"

    def peak(self) -> float:
        """Return the largest sample; for 16-bit colors, its upper 8 bits.

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
            raise UserError(f"its values start at {lowest:g}, but black is 0; shift them")
        return highest


@contextmanager
def opened(path: str | Path, size: int) -> Iterator[Picture]:
    """Open a picture that will be resized to `size` pixels in width and height.

    To save time, large JPEG files are decoded at a reduced size, at least twice `size`. Of an
    animation or several pages, the first is used.

    Raises:
        UserError: it has too many pixels, Pillow would misread its samples, or there is too little
            memory, in the body of the `with` statement as well.
        Exception: the file is missing or corrupt; Pillow raises many types.
    """
    with _of_any_size(path) as image:
        image.draft(None, (2 * size, 2 * size))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise UserError(
                f"it has {width}×{height} pixels, but at most {MOST_PIXELS} are supported; "
                "make it smaller"
            )
        with _large if width * height > LARGE_PIXELS else nullcontext():
            try:
                yield Picture.of(image)
            except MemoryError as error:
                raise UserError(
                    f"there is not enough memory for {width}×{height} pixels; make it smaller"
                ) from error


def _of_any_size(path: str | Path) -> Image.Image:
    """Open a file without Pillow's limit of 179 million pixels, which is meant for web servers."""
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
    for tile in getattr(image, "tile", []):  # decoding instructions; empty after decoding
        is_deep_ppm = tile.codec_name.startswith("ppm") and tile.args[1] > 255
        if is_deep_ppm or ";16" in str(tile.args):
            return "16-bit colour"
    return None


def fault(error: Exception) -> str:
    """Return why a picture cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known type"
    return first_line(error)


def white(kind: Kind, peak: float) -> int:
    """Return the value that becomes white, given the largest sample of all pictures, `peak`.

    It is the smallest of 1, 3, 7, …, 255, …, 4095, …, 65535, … that is at least `peak`: 1 for
    floats from 0 to 1, and 4095 for 12-bit samples stored in 16 bits. For 16-bit colors, it is
    always 255.

    Raises:
        UserError: the pictures would be almost black.
    """
    if kind == "16-bit colour":
        if 0 < peak < 64:
            raise UserError(
                "its 16-bit colors use only the lowest quarter of their range, as 12-bit samples "
                "do; save it with 8 bits, or scaled to 16 bits"
            )
        return 255
    found = (1 << max(math.ceil(peak).bit_length(), 1)) - 1
    if 0 < peak < found / 16:
        raise UserError(f"its values end at {peak:g}, but white is {found}; scale them to 0 to 1")
    return found


def square(picture: Picture, size: int, channels: int, whites: Whites) -> np.ndarray:
    """Return the picture's middle square, upright, as (channels, size, size), uint8.

    Three channels are red, green and blue; one channel is gray. Transparency is dropped.

    Raises:
        UserError: its value of white is unknown, or is not that of `whites`.
    """
    upright = _upright(picture.image)
    if picture.kind is not None:
        most = _white_of(picture, picture.kind, whites)
        if picture.kind != "16-bit colour":
            samples = np.asarray(upright) * np.float64(255 / most)
            upright = Image.fromarray(np.rint(samples).astype(np.uint8))
    image = _in_mode(upright, STRAIGHT.get(upright.mode, upright.mode))
    if channels == 3 or not picture.is_gray:
        image = _in_mode(image, "RGB")
    if channels == 1:
        image = _in_mode(image, "L")
    pixels = np.array(ImageOps.fit(image, (size, size)))  # (size, size) or (size, size, 3)
    return np.ascontiguousarray(pixels.reshape(size, size, channels).transpose(2, 0, 1))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # in a PNG file, EXIF data may follow the pixels
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if is_turned else image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image, without a copy if it has the mode: a large copy may not fit in memory."""
    return image if image.mode == mode else image.convert(mode)


def _white_of(picture: Picture, kind: Kind, whites: Whites) -> float:
    peak = picture.peak()
    if kind in whites:
        if peak > whites[kind]:
            raise UserError(
                f"it has a value of {peak:g}, but white was {whites[kind]:g} in the training "
                "pictures; scale it like them"
            )
        return whites[kind]
    most = white(kind, peak)
    if most != FULL.get(kind):
        raise UserError(
            f"its samples are of type {kind}, which the training pictures did not have, and one "
            "picture does not determine the value of white; save it with 8 bits"
        )
    return most
