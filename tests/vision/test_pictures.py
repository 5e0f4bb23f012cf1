"""Pictures whose samples are not of 8 bits, or whose files are odd, as a folder's pixels."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from search.errors import UserError
from search.vision.images import Dataset, load_dataset

SHADES = np.linspace(0, 1, 64).reshape(8, 8)
"""From black to white; those of the second class are twice as dark."""
EIGHT_BITS = np.rint(SHADES * 255)

Save = Callable[[np.ndarray, Path], None]


def _folder(tmp_path: Path, save: Save, ending: str) -> Path:
    """Make a folder of two pictures for each of two classes, written by `save` from shades."""
    for name, factor in (("bright", 1.0), ("dark", 0.5)):
        for number in range(2):
            path = tmp_path / "data" / "scans" / name / f"{number}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(SHADES * factor, path)
    return tmp_path / "data" / "scans"


def _load(folder: Path) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return load_dataset(f"folder:{folder.name}?size=8", folder.parent, said.append), said


def _by_class(dataset: Dataset) -> dict[str, np.ndarray]:
    images = zip(dataset.train.labels.tolist(), dataset.train.parts[0], strict=True)
    return {dataset.classes[label]: image[0].numpy().astype(float) for label, image in images}


def _to(most: float, dtype: str, **options: Any) -> Save:
    def save(shades: np.ndarray, path: Path) -> None:
        values = (shades * most).astype(dtype) if "f" in dtype else np.rint(shades * most)
        Image.fromarray(values.astype(dtype)).save(path, **options)

    return save


def _to_pgm(shades: np.ndarray, path: Path) -> None:
    path.write_bytes(b"P5 8 8 4095\n" + np.rint(shades * 4095).astype(">u2").tobytes())


def _to_big_endian(shades: np.ndarray, path: Path) -> None:
    samples = np.rint(shades * 4095).astype(">u2").tobytes()
    Image.frombytes("I;16B", (8, 8), samples).save(path)


@pytest.mark.parametrize(
    ("save", "ending", "white"),
    [
        (_to(1, "float32"), ".tif", 1),
        (_to(255, "float32"), ".tif", 255),
        (_to(65535, "float32", compression="tiff_lzw"), ".TIFF", 65535),
        (_to(255, "int32"), ".tif", 255),
        (_to(4095, "int32"), ".tif", 4095),
        (_to(2**31 - 1, "int32"), ".tif", 2**31 - 1),
        (_to(1023, "uint16"), ".tif", 1023),
        (_to(4095, "uint16"), ".png", 4095),
        (_to(65535, "uint16"), ".png", 65535),
        (_to_big_endian, ".tif", 4095),
        (_to_pgm, ".pgm", 65535),  # Pillow scales by the largest value that the file declares
    ],
)
def test_white_is_the_range_of_all_pictures_so_that_dark_ones_stay_dark(
    tmp_path: Path, save: Save, ending: str, white: int
) -> None:
    dataset, said = _load(_folder(tmp_path, save, ending))
    assert dataset.train.channels == 1
    found = _by_class(dataset)
    np.testing.assert_allclose(found["bright"], EIGHT_BITS, atol=1)
    np.testing.assert_allclose(found["dark"], EIGHT_BITS / 2, atol=1)
    (kind,) = dataset.whites
    assert dataset.whites == {kind: white}
    assert any(line.endswith(f"more than 8 bits ({kind}): {white} is white") for line in said)


def test_what_was_white_is_kept_with_the_pixels(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _to(4095, "uint16"), ".png")
    assert _load(folder)[0].whites == _load(folder)[0].whites == {"integer": 4095}


def _png_of_16_bit_colours(most: int) -> Save:
    """Return what writes a PNG file that Pillow can read and not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + sum_

    def save(shades: np.ndarray, path: Path) -> None:
        samples = np.rint(shades * most).astype(">u2")[:, :, None].repeat(3, axis=2)
        lines = b"".join(b"\0" + line.tobytes() for line in samples)
        head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(lines))
            + chunk(b"IEND", b"")
        )

    return save


def test_16_bit_colours_have_their_whole_range_or_are_refused(tmp_path: Path) -> None:
    dataset, _ = _load(_folder(tmp_path / "16", _png_of_16_bit_colours(65535), ".png"))
    assert (dataset.train.channels, dataset.whites) == (3, {"16-bit colour": 255})
    np.testing.assert_allclose(_by_class(dataset)["dark"], EIGHT_BITS / 2, atol=1)
    with pytest.raises(UserError, match=r"bright/\d.png: its 16-bit colors use only the lowest qu"):
        _load(_folder(tmp_path / "12", _png_of_16_bit_colours(4095), ".png"))


def _spoilt(value: float) -> np.ndarray:
    values = SHADES.astype(np.float32)
    values[3, 3] = value
    return values


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (_spoilt(np.nan), "some of its values are infinite or not a number; replace them"),
        (_spoilt(np.inf), "some of its values are infinite or not a number; replace them"),
        (_spoilt(-0.5), r"its values start at -0\.5, but black is 0; shift them"),
        ((SHADES * 3000 - 1000).astype(np.int32), r"its values start at -1000, but black is 0"),
        (
            (SHADES * 255).astype(np.float32),
            r"its values end at (1|0\.5), but those of .*odd.tif at 255",
        ),
    ],
)
def test_values_that_have_no_shade_are_refused_by_name(
    tmp_path: Path, values: np.ndarray, complaint: str
) -> None:
    folder = _folder(tmp_path, _to(1, "float32"), ".tif")
    Image.fromarray(values).save(folder / "bright" / "odd.tif")
    with pytest.raises(UserError, match=rf"(bright|dark)/\w+.tif: {complaint}") as error:
        _load(folder)
    assert "\n" not in str(error.value)


def test_floats_that_are_all_black_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\d.tif: its values end at 0.01, but white is 1; scale"):
        _load(_folder(tmp_path, _to(0.01, "float32"), ".tif"))


@pytest.mark.parametrize(
    ("tag", "value", "dtype", "complaint"),
    [
        (TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0, "uint16", "its 0 means white"),
        (TiffImagePlugin.SAMPLEFORMAT, 2, "uint8", "its samples are signed bytes"),
    ],
)
def test_a_tiff_that_pillow_reads_wrongly_is_refused_by_name(
    tmp_path: Path, tag: int, value: int, dtype: str, complaint: str
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    save = _to(np.iinfo(dtype).max, dtype, tiffinfo=tags)
    with pytest.raises(UserError, match=rf"\d.tif: {complaint}.*; save it"):
        _load(_folder(tmp_path, save, ".tif"))


def _in_mode(mode: str, **options: Any) -> Save:
    return lambda shades, path: (
        Image.fromarray(np.rint(shades * 255).astype(np.uint8)).convert(mode).save(path, **options)
    )


@pytest.mark.parametrize(
    ("save", "ending"),
    [
        (_in_mode("LA"), ".png"),
        (_in_mode("CMYK"), ".tif"),
        (_in_mode("P"), ".png"),
        (_in_mode("P", transparency=bytes(range(256))), ".png"),
        (_in_mode("RGBA"), ".webp"),
        (_in_mode("RGBX"), ".tif"),
    ],
)
def test_every_mode_of_8_bits_shows_its_shades(tmp_path: Path, save: Save, ending: str) -> None:
    dataset, _ = _load(_folder(tmp_path, save, ending))
    found = _by_class(dataset)
    np.testing.assert_allclose(found["bright"], EIGHT_BITS, atol=12)  # WebP is lossy
    np.testing.assert_allclose(found["dark"], EIGHT_BITS / 2, atol=12)
    assert dataset.whites == {}


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top row is at the right
    dataset, _ = _load(_folder(tmp_path, _to(65535, "uint16", exif=exif), ".png"))
    np.testing.assert_allclose(_by_class(dataset)["bright"], np.rot90(EIGHT_BITS, -1), atol=1)


@pytest.mark.parametrize("ending", [".tif", ".webp", ".png"])
def test_of_several_frames_the_first_is_taken_and_it_is_told(tmp_path: Path, ending: str) -> None:
    def save(shades: np.ndarray, path: Path) -> None:
        frames = [Image.fromarray(np.rint(x * 255).astype(np.uint8)) for x in (shades, 1 - shades)]
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)

    dataset, said = _load(_folder(tmp_path, save, ending))
    np.testing.assert_allclose(_by_class(dataset)["bright"], EIGHT_BITS, atol=1)
    assert "4 pictures have several frames or pages: the first is used" in said


def test_a_picture_of_more_pixels_than_pillow_allows_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)  # 64 are more than twice that
    dataset, _ = _load(_folder(tmp_path, _to(255, "uint8"), ".png"))
    np.testing.assert_allclose(_by_class(dataset)["bright"], EIGHT_BITS, atol=1)
    assert Image.MAX_IMAGE_PIXELS == 31


def test_the_number_of_copies_across_the_split_is_told(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _to(255, "uint8"), ".png")  # both of a class are alike
    _, said = _load(folder)
    assert any(
        line.startswith("2 of 2 test pictures are also in the training set, pixel by pixel")
        for line in said
    )
