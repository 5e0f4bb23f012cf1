"""Changes to a network's first batch normalization, to test whether it causes collapses.

A unit after a ReLU can be zero for almost all images. Its variance is then close to zero, and the
normalization divides by its square root; `studies.cifar.batchnorm.measure` measures the effect.
"""

from collections.abc import Callable

from torch import nn

from studies.cifar.network import HIDDEN, Network


def plain(network: Network) -> nn.BatchNorm1d:
    """Return the first normalization of the network, unchanged."""
    assert isinstance(network.bn1, nn.BatchNorm1d), "checked by the command"
    return network.bn1


def affine(network: Network) -> nn.BatchNorm1d:
    """Give the normalization a learnable scale and shift."""
    network.bn1 = nn.BatchNorm1d(HIDDEN, affine=True).to(network.fc2.weight.device)
    return network.bn1


def larger_eps(network: Network) -> nn.BatchNorm1d:
    """Add 0.001 to the variances instead of 0.00001, which limits the factors to 32."""
    norm = plain(network)
    norm.eps = 1e-3
    return norm


def before_relu(network: Network) -> nn.BatchNorm1d:
    """Normalize before the ReLU, where no unit is constant."""
    norm = plain(network)
    network.fc1 = nn.Sequential(network.fc1, norm)  # type: ignore[assignment]
    network.bn1 = nn.Identity()
    return norm


CHANGES: dict[str, Callable[[Network], nn.BatchNorm1d]] = {
    "none": plain,
    "before-relu": before_relu,
    "affine": affine,
    "eps-0.001": larger_eps,
}
