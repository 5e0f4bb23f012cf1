"""One picture, of any size and kind, as the square of pixels that a network takes.

What a study is trained on and what its classifier is shown go the same way.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from search.fetching import first_line


def opened(path: str | Path, size: int) -> Image.Image:
    """Return the whole picture in a file that is to become `size` pixels wide and high.

    A large JPEG file is decoded at down to twice that size, in a fraction of the time.

    Raises:
        Exception: the file is not there, or it is corrupt in one of many ways.
    """
    with Image.open(path) as picture:
        picture.draft(None, (2 * size, 2 * size))
        picture.load()
        return picture


def fault(error: Exception) -> str:
    """Return why a picture cannot be read, in one line; Pillow has many ways to say so."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known kind"
    return first_line(error)


def is_grey(picture: Image.Image) -> bool:
    """Return whether the picture has one channel, besides that of its transparency."""
    return Image.getmodebase(picture.mode) == "L"


def square(picture: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return the picture's middle square, upright, as (channels, size, size), uint8.

    Three channels are red, green and blue; one is grey. Transparency is dropped.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
    coloured = upright.convert("RGB" if channels == 3 else "L")
    pixels = np.array(ImageOps.fit(coloured, (size, size)))  # (size, size) or (size, size, 3)
    return np.ascontiguousarray(pixels.reshape(size, size, channels).transpose(2, 0, 1))
