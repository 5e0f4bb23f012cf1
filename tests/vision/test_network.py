import dataclasses

import pytest
import torch

from search.vision import ImageShape
from search.vision.images import Images
from search.vision.session import Splits
from studies.cifar import VARIANTS
from studies.cifar.choices import Choices
from studies.cifar.network import Network
from tests.support.images import run_of, session_of
from tests.support.reference_network import Report

CONVOLUTIONS = {
    "conv1.weight": 864, "conv1.bias": 32, "conv2.weight": 9216, "conv2.bias": 32,
    "conv3.weight": 18432, "conv3.bias": 64, "conv4.weight": 36864, "conv4.bias": 64,
}  # fmt: skip
FULLY_CONNECTED = {
    "fc1.weight": 2097152, "fc1.bias": 512, "fc2.weight": 5120, "fc2.bias": 10,
}  # fmt: skip
EXTRA = {"extra_fc.0.weight": 262144, "extra_fc.0.bias": 512}
AFFINE = {"bn2.weight": 512, "bn2.bias": 512}
COUNTS = {
    "base": (CONVOLUTIONS | FULLY_CONNECTED, 2168362),
    "question-1": (CONVOLUTIONS | FULLY_CONNECTED, 2168362),
    "question-2": (CONVOLUTIONS | FULLY_CONNECTED | EXTRA, 2431018),
    "question-3": (CONVOLUTIONS | FULLY_CONNECTED | EXTRA, 2431018),
    "question-4.1": (CONVOLUTIONS | FULLY_CONNECTED | EXTRA, 2431018),
    "question-4.2": (CONVOLUTIONS | FULLY_CONNECTED | EXTRA | AFFINE, 2432042),
}


def _cifar(choices: Choices) -> Network:
    return Network(choices, ImageShape(channels=3, size=32, n_classes=10))


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_its_parameters_layer_by_layer(variant: str) -> None:
    counts = {name: p.numel() for name, p in _cifar(VARIANTS[variant]).named_parameters()}
    expected, total = COUNTS[variant]
    assert counts == expected
    assert sum(counts.values()) == total


def test_without_biases_only_weights_are_left(base: Choices) -> None:
    bare = dataclasses.replace(base, conv_bias=False, fc_bias=False, extra_fc=True, bn1="affine")
    names = {name for name, _ in _cifar(bare).named_parameters()}
    assert names == {
        "conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight", "fc1.weight",
        "bn1.weight", "bn1.bias", "extra_fc.0.weight", "fc2.weight",
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_and_gradients_are_those_of_the_report_written_out(variant: str) -> None:
    choices = VARIANTS[variant]
    ours = _cifar(choices).double()
    theirs = Report(choices).double()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    for network in (ours, theirs):
        network(images).square().sum().backward()
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-12)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone(base: Choices) -> None:
    images = Images((torch.zeros(2, 3, 32, 32, dtype=torch.uint8),), torch.zeros(2).long())
    session = session_of(Splits(train=images, validation=None, test=images, n_classes=10))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (session.build(run_of(base, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [network.get_parameter("fc1.weight") for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_other_image_sizes_and_classes_fit(base: Choices) -> None:
    for channels, size in ((1, 8), (1, 28), (3, 64), (3, 128)):
        network = Network(base, ImageShape(channels=channels, size=size, n_classes=7))
        assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)
    with pytest.raises(ValueError, match="multiple of 4"):
        Network(base, ImageShape(channels=1, size=10, n_classes=7))
