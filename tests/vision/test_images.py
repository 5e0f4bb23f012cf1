import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from search.errors import UserError
from search.vision.images import Images, load_dataset


def _images(*lengths: int) -> Images:
    """Parts of a few 3×4×4 images each, every image different."""
    n = sum(lengths)
    pixels = torch.arange(n * 48, dtype=torch.int64).remainder(251).to(torch.uint8).view(n, 3, 4, 4)
    return Images(pixels.split(list(lengths)), torch.arange(n))


def test_batches_in_an_order_hold_exactly_those_images() -> None:
    images = _images(70, 50, 80)
    whole = torch.cat(images.parts)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))[:199]
    batches = list(images.batches(2, order=order))
    assert [len(labels) for _, labels in batches] == [2] * 99 + [1]
    assert torch.equal(torch.cat([labels for _, labels in batches]), order)
    seen = torch.cat([pixels for pixels, _ in batches])
    torch.testing.assert_close(seen, whole[order].float() / 127.5 - 1, atol=1e-6, rtol=0)


def test_batches_without_an_order_hold_all_images_in_their_own() -> None:
    images = _images(5, 4)
    batches = list(images.batches(3, dtype=torch.float64))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(9))
    expected = torch.cat(images.parts).double() / 127.5 - 1
    torch.testing.assert_close(torch.cat([b for b, _ in batches]), expected)


def test_pixels_are_scaled_from_minus_one_to_one_and_channels_last() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat(24).view(1, 3, 4, 4)
    ((batch, _),) = Images((pixels,), torch.zeros(1)).batches(1)
    assert batch.unique().tolist() == [-1.0, 1.0]
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (2, 4), (4, 6), (5, 9), (3, 3)])
def test_a_stretch_of_images_crosses_parts_without_a_copy(start: int, stop: int) -> None:
    images = _images(5, 4)
    stretch = images.between(start, stop)
    assert stretch.labels.tolist() == list(range(start, stop))
    assert sum(map(len, stretch.parts)) == stop - start
    if stretch.parts:
        assert torch.equal(torch.cat(stretch.parts), torch.cat(images.parts)[start:stop])
    owners = {part.untyped_storage().data_ptr() for part in images.parts}
    assert {part.untyped_storage().data_ptr() for part in stretch.parts} <= owners


def test_digits_are_scikit_learns() -> None:
    digits = load_dataset("digits", Path("nowhere"))
    assert (len(digits.train), len(digits.test), digits.n_classes) == (1438, 359, 10)
    assert (digits.train.channels, digits.train.size) == (1, 8)
    # Counts by class of the whole set: https://archive.ics.uci.edu/dataset/80
    counts = torch.cat([digits.train.labels, digits.test.labels]).bincount().tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first image is a zero; its second row is 0 0 13 15 10 15 5 0 of 16.
    row = digits.train.parts[0][0, 0, 1].tolist()
    assert row == [round(grey * 255 / 16) for grey in (0, 0, 13, 15, 10, 15, 5, 0)]
    official = load_digits()
    ours = torch.cat([digits.train.parts[0], digits.test.parts[0]]).squeeze(1)
    assert torch.equal(ours, torch.from_numpy(official.images * 255 / 16).round().to(torch.uint8))
    labels = torch.cat([digits.train.labels, digits.test.labels])
    assert torch.equal(labels, torch.from_numpy(official.target))


def test_an_unknown_dataset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown dataset 'mnist'; known: cifar10, digits"):
        load_dataset("mnist", Path("nowhere"))


def test_cifar10_is_mapped_from_the_official_layout(official_files: Path) -> None:
    dataset = load_dataset("cifar10", official_files)
    assert (len(dataset.train), len(dataset.test)) == (50, 10)
    record = (official_files / "cifar-10-batches-bin" / "data_batch_3.bin").read_bytes()[3073 * 4 :]
    assert dataset.train.labels[24] == record[0]
    red, green, blue = dataset.train.parts[2][4]
    assert red.flatten().tolist() == list(record[1:1025])
    assert green.flatten().tolist() == list(record[1025:2049])
    assert blue.flatten().tolist() == list(record[2049:3073])


def test_cifar10_is_mapped_and_not_read_into_memory(official_files: Path) -> None:
    dataset = load_dataset("cifar10", official_files)
    address = dataset.train.parts[0].untyped_storage().data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(bound, 16) for bound in re.split("[- ]", line)[:2])
        if first <= address < last:
            assert line.endswith("data_batch_1.bin")
            return
    pytest.fail("the images are in no mapping")
