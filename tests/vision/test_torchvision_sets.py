"""FashionMNIST in torchvision's own files of a few made-up images; no network is asked."""

import gzip
import inspect
import itertools
import socket
import threading
import time
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from torchvision.datasets import FashionMNIST

from search.errors import UserError
from search.study.dataset_spec import SPLITS
from search.vision.datasets import download
from search.vision.images import load_dataset
from tests.support.http import Interrupted, serving


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("urllib.request._opener", None)  # it has the proxies of before


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, pixels: np.ndarray) -> Path:
    """A folder with 20 images to train and 10 to test on, labelled 0, 1, 2, … in turn."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.arange(30, dtype=np.uint8) % 10
    for name, part in (("train", slice(20)), ("t10k", slice(20, 30))):
        # The idx format: http://yann.lecun.com/exdb/mnist/
        images = (
            np.array([2051, len(pixels[part]), 28, 28], ">i4").tobytes() + pixels[part].tobytes()
        )
        numbers = np.array([2049, len(labels[part])], ">i4").tobytes() + labels[part].tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(numbers)
    return tmp_path


def test_files_that_torchvision_left_are_taken_pixel_by_pixel(
    root: Path, pixels: np.ndarray
) -> None:
    said: list[str] = []
    dataset = load_dataset("torchvision:FashionMNIST", root, said.append)
    assert said == ["FashionMNIST: resizing 30 images to 28×28"]
    assert (len(dataset.train), len(dataset.test), dataset.n_classes) == (20, 10, 10)
    assert (dataset.train.channels, dataset.train.size) == (1, 28)
    assert dataset.classes[0] == "T-shirt/top"
    for images, theirs in ((dataset.train, pixels[:20]), (dataset.test, pixels[20:])):
        by_content = {image.tobytes(): number % 10 for number, image in enumerate(theirs)}
        (ours,) = images.parts
        assert [by_content.pop(image.numpy().tobytes()) for image in ours] == images.labels.tolist()
        assert not by_content


def test_images_are_in_no_order_of_the_files_and_always_in_the_same(root: Path) -> None:
    labels = load_dataset("torchvision:FashionMNIST", root, print).train.labels
    assert not torch.equal(labels, torch.arange(20) % 10)
    for file in (root / "prepared").iterdir():
        file.unlink()
    assert torch.equal(labels, load_dataset("torchvision:FashionMNIST", root, print).train.labels)


def test_another_size_is_kept_beside_the_first(root: Path) -> None:
    own = load_dataset("torchvision:FashionMNIST", root, print)
    small = load_dataset("torchvision:FashionMNIST?size=12", root, print)
    assert (own.train.size, small.train.size) == (28, 12)
    assert own.digest != small.digest
    (root / "FashionMNIST").rename(root / "gone")  # what is kept needs it no more
    assert load_dataset("torchvision:FashionMNIST", root, print).digest == own.digest


def test_a_download_leaves_the_images_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = root / "FashionMNIST" / "raw"
    resources = []
    for file in sorted(raw.iterdir()):
        packed = raw / f"{file.name}.gz"
        packed.write_bytes(gzip.compress(file.read_bytes()))
        resources.append((packed.name, None))
    data_folder = tmp_path / "new"
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    with serving(SimpleHTTPRequestHandler, raw, monkeypatch) as url:
        monkeypatch.setattr(FashionMNIST, "mirrors", [url])
        dataset = load_dataset("torchvision:FashionMNIST", data_folder, print)
    assert dataset.digest == load_dataset("torchvision:FashionMNIST", root, print).digest
    assert [path.name for path in data_folder.iterdir()] == ["prepared"]


def test_a_corrupt_picture_is_blamed_on_its_dataset(tmp_path: Path) -> None:
    for split, label in itertools.product(("train", "test"), ("negative", "positive")):
        picture = tmp_path / "rendered-sst2" / split / label / "0.png"
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(picture)
    picture.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"RenderedSST2: a picture is corrupt .*download it again$"):
        load_dataset("torchvision:RenderedSST2", tmp_path, print)


def test_without_a_network_the_way_by_hand_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_dataset("torchvision:FashionMNIST", tmp_path, print)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "not found in --data",
        "Dataset not found",
        "refused",
        "manually",
        "download=True",
    ):
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_a_name_that_is_looked_up_for_ever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: time.sleep(5))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"no answer within 0\.5 seconds"):
        load_dataset("torchvision:FashionMNIST", tmp_path, print)
    assert time.monotonic() - began < 4


def test_a_source_that_falls_silent_after_its_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    class Silent(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            is_over.wait(10)

    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    with serving(Silent, tmp_path, monkeypatch) as url:
        monkeypatch.setattr(FashionMNIST, "mirrors", [url])
        began = time.monotonic()
        with pytest.raises(UserError, match=r"not be downloaded \(timed out\)"):
            load_dataset("torchvision:FashionMNIST", tmp_path / "new", print)
        is_over.set()
    assert time.monotonic() - began < 8


def test_a_source_whose_answer_is_cut_off_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Interrupted, tmp_path, monkeypatch) as url:
        monkeypatch.setattr(FashionMNIST, "mirrors", [url])
        with pytest.raises(UserError, match=r"not be downloaded \(IncompleteRead"):
            load_dataset("torchvision:FashionMNIST", tmp_path / "new", print)


@pytest.mark.parametrize("name", SPLITS)
def test_each_known_class_has_its_splits_and_downloads_itself(name: str, tmp_path: Path) -> None:
    parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
    assert {SPLITS[name], "download"} <= parameters.keys()
    with pytest.raises(UserError, match=f"dataset torchvision:{name} was not found in --data"):
        load_dataset(f"torchvision:{name}", tmp_path, print)
