"""A file of weights: what it holds, and the pictures that its network classifies."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.errors import UserError
from search.study.space import Space
from search.study.training import About
from search.vision import ImageShape
from search.vision.classifier import ImageAbout, load, qualified, serialized
from search.vision.datasets import pictures
from studies.cifar import Choices, build
from studies.cifar.network import Network

SHAPE = ImageShape(channels=3, size=32, n_classes=10)


@pytest.fixture
def about(base: Choices) -> ImageAbout:
    return ImageAbout(
        about=About(
            study="x",
            trial=3,
            variant=None,
            params=Space(Choices).params(base),
            metrics={"batch_loss": 0.9, "test_accuracy": 0.7},
        ),
        build=qualified(build),
        shape=SHAPE,
        classes=(),
    )


@pytest.fixture
def network(base: Choices) -> Network:
    torch.manual_seed(0)
    return Network(base, SHAPE)


@pytest.fixture
def path(network: Network, about: ImageAbout, tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(serialized(network, about))
    return tmp_path / "weights"


def test_a_file_holds_the_network_and_what_it_is_of(
    network: Network, path: Path, about: ImageAbout
) -> None:
    classifier = load(path)
    assert classifier.about == about
    assert not classifier.network.training
    ours, theirs = network.state_dict(), classifier.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert serialized(network, about) == path.read_bytes()


def test_a_picture_of_the_networks_size_is_what_its_tensor_is(path: Path, tmp_path: Path) -> None:
    classifier = load(path)
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "picture.png")
    expected = classifier.network((pixels.float() / 127.5 - 1).unsqueeze(0)).softmax(1)[0]
    for image in (pixels, picture, tmp_path / "picture.png", str(tmp_path / "picture.png")):
        label, probability = classifier.classify(image)
        assert label == str(int(expected.argmax()))
        assert probability == pytest.approx(expected.max().item(), rel=1e-5)


@pytest.mark.parametrize(("mode", "size"), [("L", (7, 90)), ("RGBA", (300, 32)), ("1", (1, 1))])
def test_a_picture_of_any_size_and_colours_is_classified(
    path: Path, mode: str, size: tuple[int, int]
) -> None:
    _, probability = load(path).classify(Image.new(mode, size))
    assert 0.1 <= probability <= 1


def test_samples_of_more_than_8_bits_are_scaled_as_those_learnt_from(
    network: Network, about: ImageAbout, tmp_path: Path
) -> None:
    learnt = dataclasses.replace(about, whites={"integer": 4095, "float": 1})
    (tmp_path / "weights").write_bytes(serialized(network, learnt))
    classifier = load(tmp_path / "weights")
    assert classifier.about == learnt
    grey = torch.randint(0, 256, (32, 32), dtype=torch.uint8)
    expected = classifier.classify(grey.expand(3, 32, 32))
    twelve = Image.fromarray((grey.numpy() * (4095 / 255)).round().astype(np.uint16))
    floats = Image.fromarray(grey.numpy().astype(np.float32) / 255)
    twelve.save(tmp_path / "12.png")
    floats.save(tmp_path / "float.tif")
    for image in (twelve, floats, tmp_path / "12.png", tmp_path / "float.tif"):
        assert classifier.classify(image) == expected
    brighter = Image.fromarray(np.full((32, 32), 4096, np.uint16))
    with pytest.raises(UserError, match=r"a value of 4096, but white was 4095 .*; scale it"):
        classifier.classify(brighter)


def test_white_is_found_by_a_pictures_upper_half_or_refused(
    path: Path,
) -> None:
    classifier = load(path)  # of a network that has learnt from 8 bits
    grey = torch.randint(0, 256, (32, 32), dtype=torch.uint8)
    sixteen = Image.fromarray(grey.numpy().astype(np.uint16) * 257)
    assert classifier.classify(sixteen) == classifier.classify(grey.expand(3, 32, 32))
    for unclear in (
        Image.fromarray(np.full((32, 32), 4095, np.uint16)),
        Image.fromarray(np.full((32, 32), 1, np.float32)),
    ):
        with pytest.raises(
            UserError, match=r"does not determine the value of white; save it with 8 bit"
        ):
            classifier.classify(unclear)


def test_no_picture_and_no_file_of_weights_are_refused(
    path: Path, about: ImageAbout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = load(path)
    with pytest.raises(UserError, match=r"shape \(3, 32, 32\), not torch.float32 of \(3, 8, 8\)"):
        classifier.classify(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match=r"none.png: No such file or directory; give a picture$"):
        classifier.classify(tmp_path / "none.png")
    with pytest.raises(UserError, match="not a picture of a known type"):
        classifier.classify(path)
    Image.new("RGB", (99, 99)).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"half.jpg: image file is truncated .*; give a picture$"):
        classifier.classify(tmp_path / "half.jpg")
    with pytest.raises(UserError, match=r"embedded null byte; give a picture$"):
        classifier.classify("x\0.png")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 99)
    with pytest.raises(
        UserError, match=r"half.jpg: it has 99×99 pixels, but at most 99 are supported; make"
    ):
        classifier.classify(tmp_path / "half.jpg")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(
            UserError, match="there is no such file; give a weights file of a search"
        ):
            load(missing)
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(UserError, match=r"^load .*text: not a weights file of this service \(.*$"):
        load(tmp_path / "text")
    unnamed = dataclasses.replace(about, classes=("cat", "dog"))
    (tmp_path / "unnamed").write_bytes(serialized(classifier.network, unnamed))
    with pytest.raises(UserError, match="2 names for 10 classes"):
        load(tmp_path / "unnamed")


def test_a_network_of_ones_own_needs_the_study_that_built_it(
    network: Network, about: ImageAbout, tmp_path: Path
) -> None:
    path, mine, other = (tmp_path / name for name in ("weights", "mine.py", "other.py"))
    own = dataclasses.replace(about, build="mine.build")
    path.write_bytes(serialized(network, own))
    with pytest.raises(
        UserError, match=r'its network is that of the study x; give study="FILE.py", that study\'s'
    ):
        load(path)
    mine.write_text("from studies.digits import study\n")
    found = load(path, study=str(mine))
    assert found.about == own
    assert torch.equal(found.network.get_parameter("fc2.weight"), network.fc2.weight)
    other.write_text(
        "from dataclasses import replace\nfrom studies.digits import study\n"
        "study = replace(study, train=lambda run: None)\n"
    )
    with pytest.raises(UserError, match=r"the study .*other.py trains no image classifier"):
        load(path, study=str(other))


def test_a_file_of_other_choices_is_not_one_of_this_network(
    network: Network, about: ImageAbout, tmp_path: Path
) -> None:
    wider = dataclasses.replace(about.about, params={**about.about.params, "extra_fc": True})
    (tmp_path / "weights").write_bytes(serialized(network, dataclasses.replace(about, about=wider)))
    with pytest.raises(UserError, match="cifar now builds a network that these weights"):
        load(tmp_path / "weights")
    without = dataclasses.replace(about, about=dataclasses.replace(about.about, params={}))
    (tmp_path / "weights").write_bytes(serialized(network, without))
    with pytest.raises(UserError, match="no value for bn1"):
        load(tmp_path / "weights")
