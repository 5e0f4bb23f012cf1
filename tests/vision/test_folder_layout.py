"""Which pictures of a folder are of which class and split; nothing of what they show."""

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from search.errors import UserError
from search.vision.images import Dataset, load_dataset

numbers = itertools.count()


def _add(folder: Path, *names: str, n: int = 2) -> None:
    """Add `n` pictures to each of some folders below `folder`, no two of them alike."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(n):
            pixels = bytes(next(numbers) % 251 for _ in range(64))
            Image.frombytes("L", (8, 8), pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "things"


def _load(folder: Path) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return load_dataset(f"folder:{folder}?size=8", folder.parent, said.append), said


def _numbers(dataset: Dataset) -> tuple[int, int]:
    return len(dataset.train), len(dataset.test)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "TEST", "testing", "val", "Valid", "validation"])
def test_a_folder_of_class_folders_is_the_split_of_its_name(
    folder: Path, train: str, test: str
) -> None:
    _add(folder / train, "rose", "tulip", n=3)
    _add(folder / test, "rose", "tulip", n=1)
    dataset, said = _load(folder)
    assert (dataset.classes, _numbers(dataset)) == (("rose", "tulip"), (6, 2))
    is_told = f"{folder / test} is used as the test set" in said
    assert is_told == test.lower().startswith("val")


def test_a_validation_set_beside_a_test_set_is_left_out_and_told(folder: Path) -> None:
    for n, split in ((4, "train"), (3, "valid"), (1, "test")):
        _add(folder / split, "rose", "tulip", n=n)
    dataset, said = _load(folder)
    assert _numbers(dataset) == (8, 2)
    assert f"{folder / 'valid'} is ignored; the test set is {folder / 'test'}" in said


def test_a_class_may_be_called_train_and_any_name_may_be_a_class_within_splits(
    folder: Path,
) -> None:
    _add(folder, "train", "plane")
    assert _load(folder)[0].classes == ("plane", "train")
    shutil.rmtree(folder)
    for split in ("train", "test"):
        _add(folder / split, "train", "test", "val")
    assert _load(folder)[0].classes == ("test", "train", "val")


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        (["train/rose", "train/tulip"], r"things/train: there is no test or val next to it"),
        (["val/rose", "val/tulip"], r"things: it has val, but no train; add it"),
        (["test/rose", "val/rose"], r"things: it has test, val, but no train; add it"),
        (["train/a", "Train/a", "val/a"], r"things/train: .*Train is already the training set"),
        (["train/a", "val/a", "valid/a"], r"valid: .*val is already the validation set"),
        (["train/a", "test/a", "testing/a"], r"testing: .*test is already the test set"),
        (["train/a", "val/a", "rose"], r"things/rose: .*train next to it contains folders of pic"),
        (["train/a", "plane"], r"things/plane: .*train next to it contains folders of pictures"),
        (
            ["train", "val/a", "val/b"],
            r"things/train: .*val next to it contains folders of pictures",
        ),
        (["train", "test"], r"things/test: it has the name of a split, but no folders"),
        (["train", "Train"], r"things/train: it has the name of a split, but no folders"),
        (["cats", "dogs", "Test"], r"things/Test: it has the name of a split, but no"),
        (["rose/train", "rose/val", "tulip/train"], r"rose/train: a split is inside a class"),
    ],
)
def test_what_can_be_understood_in_two_ways_is_refused_in_one_line(
    folder: Path, classes: list[str], complaint: str
) -> None:
    _add(folder, *classes)
    with pytest.raises(UserError, match=complaint) as error:
        _load(folder)
    assert "\n" not in str(error.value)


def test_an_empty_folder_beside_splits_is_no_matter(folder: Path) -> None:
    for split in ("train", "val"):
        _add(folder / split, "rose", "tulip")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "rose.json").touch()
    assert _numbers(_load(folder)[0]) == (4, 4)


def test_what_other_tools_leave_is_neither_a_class_nor_a_picture(folder: Path) -> None:
    _add(folder, "rose", "tulip", n=5)
    before = _load(folder)[0].digest
    for name in (".ipynb_checkpoints", ".thumbnails", ".git", "@eaDir", "__MACOSX"):
        _add(folder, name, f"rose/{name}", f"rose/{name}/deep")
    shutil.copy(folder / "rose" / "1.png", folder / "rose" / "._1.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "rose" / name).touch()
    dataset, said = _load(folder)
    assert (dataset.digest, len(said)) == (before, 0)


def test_what_is_passed_over_is_told_with_its_number(folder: Path) -> None:
    _add(folder, "rose", "tulip", ".", n=5)
    (folder / "rose" / "moving.GIF").touch()
    (folder / "tulip" / "notes.txt").touch()
    _, said = _load(folder)
    assert any(line.startswith("5 pictures are ignored, since they are not in") for line in said)
    assert "2 files are ignored because of their extensions: .gif, .txt" in said


def test_what_test_accuracy_does_not_show_of_the_classes_is_told(folder: Path) -> None:
    _add(folder / "train", "Rose", "rose", "caf\u00e9", "cafe\u0301", "tulip", n=3)
    _add(folder / "test", "Rose", "caf\u00e9")
    _, said = _load(folder)
    assert any(line.startswith("3 of 5 classes have no test pictures, such as") for line in said)
    assert any(
        line.startswith("2 classes differ only by letter case or Unicode form from others")
        for line in said
    )
    _add(folder / "test", "ROSE")
    with pytest.raises(UserError, match="'Rose' differs only by letter case or Unicode form"):
        _load(folder)


def test_pictures_of_folders_within_classes_are_told(folder: Path) -> None:
    _add(folder, "train_images/rose", "train_images/tulip", "test_images/rose", "test_images")
    _, said = _load(folder)
    assert any(line.startswith("6 pictures are in subfolders of a class") for line in said)


def _links(*pairs: tuple[Path, str | Path]) -> None:
    for link, target in pairs:
        link.symlink_to(target)


def _stems(folders: Iterable[Path]) -> int:
    return sum(len(list(folder.glob("*.png"))) for folder in folders)


def test_links_are_followed_to_every_picture_once_and_in_no_circle(folder: Path) -> None:
    elsewhere = folder.parent.parent / "elsewhere"
    _add(folder, "rose", "tulip", n=5)
    _add(elsewhere, "lily", "more", n=5)
    _links(
        (folder / "lily", elsewhere / "lily"),
        (folder / "rose" / "more", elsewhere / "more"),
        (folder / "rose" / "the same", "more"),
        (folder / "rose" / "here", "."),
        (folder / "rose" / "up", ".."),
        (folder / "rose" / "root", "/"),
    )
    dataset, said = _load(folder)
    assert dataset.classes == ("lily", "rose", "tulip")
    everything = sum(_numbers(dataset))
    assert everything == _stems([*folder.glob("*/"), elsewhere / "more"]) == 20
    assert not any("too high" in line for line in said)  # no picture is there twice


@pytest.mark.parametrize("kind", ["link", "pipe", "circle"])
def test_a_picture_that_is_no_file_is_refused_by_name(folder: Path, kind: str) -> None:
    _add(folder, "rose", "tulip")
    odd = folder / "rose" / "odd.png"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("odd.png" if kind == "circle" else "nothing.png")
    with pytest.raises(UserError, match=r"rose/odd.png: (not a file, or a broken|Too many levels)"):
        _load(folder)


def test_a_dataset_may_be_the_data_folder_itself(folder: Path) -> None:
    _add(folder, "rose", "tulip")
    digests = {load_dataset("folder:.?size=8", folder, print).digest for _ in range(2)}
    assert len(digests) == 1
    assert (folder / "prepared").is_dir()
