"""Folders of pictures, made up of random pixels in files of many kinds."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from search.errors import UserError
from search.vision.datasets import folder_layout
from search.vision.images import Dataset, load_dataset


def _picture(path: Path, size: tuple[int, int] = (40, 40), mode: str = "RGB") -> None:
    """Write a picture that its path determines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(os.fsencode(path.name + path.parent.name)))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Ten pictures of each of three classes below `data/flowers`."""
    for name in ("rose", "daisy", "tulip"):
        for number in range(10):
            _picture(tmp_path / "data" / "flowers" / name / f"{number}.png")
    return tmp_path / "data" / "flowers"


def _load(folder: Path, size: int | None = None) -> Dataset:
    query = f"?size={size}" if size else ""
    return load_dataset(f"folder:{folder.name}{query}", folder.parent, lambda line: None)


def test_a_fifth_of_each_class_is_the_test_set_and_no_picture_is_in_both(flowers: Path) -> None:
    dataset = _load(flowers)
    assert dataset.classes == ("daisy", "rose", "tulip")
    assert (dataset.n_classes, dataset.train.channels, dataset.train.size) == (3, 3, 32)
    assert dataset.train.labels.bincount().tolist() == [8, 8, 8]
    assert dataset.test.labels.bincount().tolist() == [2, 2, 2]
    everything = torch.cat([*dataset.train.parts, *dataset.test.parts])
    assert len({image.numpy().tobytes() for image in everything}) == 30


def test_pictures_are_in_the_order_of_their_names_sums_so_that_classes_are_mixed(
    flowers: Path,
) -> None:
    dataset = _load(flowers, 40)  # the size that they have
    names = sorted(
        (f"{name}/{number}.png" for name in dataset.classes for number in range(10)),
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )
    in_test = {
        name
        for label in dataset.classes
        for name in [name for name in names if name.startswith(label)][:2]
    }
    for images, split in (
        (dataset.train, [name for name in names if name not in in_test]),
        (dataset.test, [name for name in names if name in in_test]),
    ):
        (pixels,) = images.parts
        for image, label, name in zip(pixels, images.labels, split, strict=True):
            assert dataset.classes[label] == name.split("/")[0]
            assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(flowers / name)))


def test_folders_train_and_test_are_the_splits_and_hold_what_torchvision_finds(
    flowers: Path,
) -> None:
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        for name in ("rose", "daisy", "tulip"):
            for number in numbers:
                (flowers / split / name).mkdir(parents=True, exist_ok=True)
                source = flowers / name / f"{number}.png"
                source.rename(flowers / split / name / source.name)
    deep = flowers / "train" / "rose" / "deep"
    deep.mkdir()
    (deep.parent / "0.png").rename(deep / "0.png")
    (deep.parent / "notes.txt").touch()
    for name in ("rose", "daisy", "tulip"):
        (flowers / name).rmdir()
    dataset = _load(flowers, 40)
    for images, split in ((dataset.train, "train"), (dataset.test, "test")):
        theirs = ImageFolder(str(flowers / split))
        assert tuple(theirs.classes) == dataset.classes
        found = {(np.asarray(image).tobytes(), label) for image, label in theirs}
        ours = {
            (image.permute(1, 2, 0).contiguous().numpy().tobytes(), int(label))
            for image, label in zip(images.parts[0], images.labels, strict=True)
        }
        assert ours == found


def test_the_endings_are_torchvisions() -> None:
    assert folder_layout.ENDINGS == IMG_EXTENSIONS


def test_pictures_of_any_form_lose_their_sides_and_grey_ones_become_colour_among_others(
    flowers: Path,
) -> None:
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    wide.save(flowers / "rose" / "wide.bmp")
    _picture(flowers / "rose" / "grey.jpg", mode="L")
    _picture(flowers / "tulip" / "clear.webp", mode="RGBA")
    _picture(flowers / "tulip" / "printed.jpg", mode="CMYK")
    _picture(flowers / "tulip" / "palette.PNG", mode="P")
    dataset = _load(flowers, 16)
    assert (len(dataset.train) + len(dataset.test), dataset.train.channels) == (35, 3)
    everything = torch.cat([*dataset.train.parts, *dataset.test.parts])
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    inside = everything[:, :, 2:-2, 2:-2]  # the filter that makes it smaller looks over the edge
    assert (inside == blue).all(dim=(1, 2, 3)).sum() == 1


def test_a_folder_of_grey_pictures_has_one_channel_and_16_bits_become_8(tmp_path: Path) -> None:
    for name in ("dark", "light"):
        for number in range(2):
            level = (0x1234 if name == "dark" else 0xFEDC) + number
            path = tmp_path / "scans" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), level, np.uint16)).save(path)
    dataset = _load(tmp_path / "scans", 8)
    assert dataset.train.channels == 1
    levels = dict(zip(dataset.train.labels.tolist(), dataset.train.parts[0], strict=True))
    assert (levels[0] == 0x12).all()
    assert (levels[1] == 0xFE).all()


def test_pictures_are_prepared_once_and_mapped_by_every_process(flowers: Path) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        loads = [
            pool.submit(load_dataset, "folder:flowers", flowers.parent, said.append)
            for _ in range(4)
        ]
        digests = {load.result().digest for load in loads}
    dataset = load_dataset("folder:flowers", flowers.parent, said.append)
    assert said == [f"{flowers}: resizing 30 pictures to 32×32"]
    assert digests == {dataset.digest}
    (kept,) = (flowers.parent / "prepared").glob("*.safetensors")
    address = dataset.train.parts[0].data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(bound, 16) for bound in re.split("[- ]", line)[:2])
        if first <= address < last:
            assert line.endswith(kept.name)
            return
    pytest.fail("the images are in no mapping")


def test_a_folder_that_has_changed_is_prepared_again(flowers: Path) -> None:
    before = _load(flowers).digest
    assert _load(flowers).digest == before
    _picture(flowers / "rose" / "10.png")
    added = _load(flowers).digest
    shutil.copy(flowers / "rose" / "10.png", flowers / "rose" / "9.png")
    replaced = _load(flowers).digest
    smaller = _load(flowers, 16).digest
    assert len({before, added, replaced, smaller}) == 4


def test_a_file_of_the_same_size_and_time_is_another_one_if_it_was_written_again(
    flowers: Path,
) -> None:
    changed = flowers / "rose" / "0.bmp"
    _picture(changed)
    before, time = _load(flowers).digest, changed.stat().st_mtime_ns
    _picture(flowers / "elsewhere.bmp")
    changed.write_bytes((flowers / "elsewhere.bmp").read_bytes())
    (flowers / "elsewhere.bmp").unlink()
    os.utime(changed, ns=(time, time))
    assert _load(flowers).digest != before


def test_folders_of_one_name_and_of_files_alike_by_size_and_time_are_kept_apart(
    tmp_path: Path,
) -> None:
    digests = set()
    for number, place in enumerate(("one", "two")):
        folder = tmp_path / place / "flowers"
        for name in ("rose", "tulip"):
            (folder / name).mkdir(parents=True)
            for grey in range(2):
                path = folder / name / f"{grey}.bmp"
                Image.new("L", (8, 8), 100 * number + grey).save(path)
                os.utime(path, ns=(0, 0))
        digests.add(load_dataset(f"folder:{folder}", tmp_path / "data", print).digest)
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["x" * 250, "[bold]\n", os.fsdecode(b"\xff")])
def test_a_folder_may_have_any_name(flowers: Path, name: str) -> None:
    odd = flowers.rename(flowers.parent / name)
    said: list[str] = []
    assert load_dataset(f"folder:{odd}", odd.parent, said.append).n_classes == 3
    assert "".join(said).encode()  # a terminal can show it


def test_what_is_kept_and_damaged_is_prepared_again(flowers: Path) -> None:
    before = _load(flowers)
    (kept,) = (flowers.parent / "prepared").glob("*.safetensors")
    for damaged in (kept.read_bytes()[:-1] + b"\x07", kept.read_bytes()[:99], b""):
        kept.unlink()
        kept.write_bytes(damaged)
        assert _load(flowers).digest == before.digest


def test_a_corrupt_picture_is_named_in_one_line(flowers: Path) -> None:
    picture = flowers / "tulip" / "3.png"
    whole = picture.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no picture"):
        picture.write_bytes(content)
        with pytest.raises(
            UserError, match=r"tulip/3.png: this picture is corrupt .*repair"
        ) as error:
            _load(flowers)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [b"a\nb.png", b"a\x1b[2Jb.png", b"\xff.png"])
def test_a_corrupt_picture_of_an_odd_name_is_named_as_a_terminal_can_show_it(
    flowers: Path, name: bytes
) -> None:
    (flowers / "tulip" / os.fsdecode(name)).touch()
    with pytest.raises(UserError, match="this picture is corrupt") as error:
        _load(flowers)
    assert str(error.value).isprintable()


def test_a_file_in_place_of_a_folder_is_told(flowers: Path) -> None:
    archive = flowers.parent / "flowers.zip"
    archive.touch()
    with pytest.raises(UserError, match=r"it is a file, not a folder: .*flowers.zip"):
        _load(archive)


def test_a_name_that_is_no_text_is_taken_like_any_other(flowers: Path) -> None:
    before = _load(flowers).digest
    shutil.copy(flowers / "rose" / "1.png", flowers / "rose" / os.fsdecode(b"\xff.png"))
    assert _load(flowers).digest != before


def _without(folder: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f: _without(f, "rose", "tulip"), "at least two classes are needed, not 1"),
        (lambda f: _without(f, "rose", "tulip", "daisy"), "at least two classes are needed, not 0"),
        (lambda f: (f / "orchid").mkdir(), "flowers/orchid: this class has no pictures"),
        (lambda f: _picture(f / "lily" / "1.png"), "flowers/lily: this class has only one picture"),
        (
            lambda f: shutil.rmtree(f),
            r"there is no folder .*/data/flowers; give a path below --data",
        ),
    ],
)
def test_a_folder_of_another_layout_is_refused_in_one_line(
    flowers: Path, change: Callable[[Path], object], complaint: str
) -> None:
    change(flowers)
    with pytest.raises(UserError, match=complaint) as error:
        _load(flowers)
    assert "\n" not in str(error.value)


def test_the_folder_of_a_user_who_is_not_there_is_refused_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*~no-such-user/x; give a path below"):
        load_dataset("folder:~no-such-user/x", tmp_path, print)


def test_a_class_that_is_only_tested_on_is_refused(flowers: Path) -> None:
    shutil.copytree(flowers, flowers / "train")
    shutil.copytree(flowers / "train", flowers / "test")
    _without(flowers, "rose", "daisy", "tulip")
    (flowers / "test" / "rose").rename(flowers / "test" / "orchid")
    with pytest.raises(UserError, match=r"test/orchid: .*train has no class of this name"):
        _load(flowers)


def test_a_hidden_folder_is_no_class_and_a_path_may_be_absolute(flowers: Path) -> None:
    (flowers / ".thumbnails").mkdir()
    elsewhere = flowers.parent.parent / "elsewhere"
    dataset = load_dataset(f"folder:{flowers}", elsewhere, lambda line: None)
    assert dataset.n_classes == 3
    assert list((elsewhere / "prepared").glob("flowers-32-*.safetensors"))
