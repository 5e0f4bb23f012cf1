"""The network, configured by `Choices`.

It has four 3×3 convolutions in two pooled pairs, one or two hidden fully connected layers, and
optional batch normalization. Source: a course report (CS535, Winter 2019, assignment 3).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from search.vision import ImageShape
from studies.cifar.choices import Choices, Norm

HIDDEN = 512
"""Units of the hidden fully connected layers."""


class Network(nn.Module):
    """Map images (n, channels, size, size) to logits (n, n_classes).

    `size` must be a multiple of 4. Layers that `choices` leaves out are identities.
    """

    def __init__(self, choices: Choices, shape: ImageShape) -> None:
        size = shape.size
        if size % 4:
            raise ValueError(f"size must be a multiple of 4, since it is halved twice, not {size}")
        super().__init__()
        conv_bias, fc_bias = choices.conv_bias, choices.fc_bias
        self.conv1 = nn.Conv2d(shape.channels, 32, 3, padding=1, bias=conv_bias)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=conv_bias)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=conv_bias)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=conv_bias)
        self.fc1 = nn.Linear(64 * (size // 4) ** 2, HIDDEN, bias=fc_bias)
        self.bn1 = _norm(choices.bn1)
        self.extra_fc = (
            nn.Sequential(nn.Linear(HIDDEN, HIDDEN, bias=fc_bias), nn.ReLU())
            if choices.extra_fc
            else nn.Identity()
        )
        self.bn2 = _norm(choices.bn2)
        self.fc2 = nn.Linear(HIDDEN, shape.n_classes, bias=fc_bias)

    def forward(self, images: Tensor) -> Tensor:
        # n images of size s. Pooling and ReLU commute exactly, gradients included, and ReLU is
        # four times cheaper after pooling.
        x = F.relu_(self.conv1(images))  # (n, 32, s, s)
        x = F.relu_(F.max_pool2d(self.conv2(x), 2))  # (n, 32, s/2, s/2)
        x = F.relu_(self.conv3(x))  # (n, 64, s/2, s/2)
        x = F.relu_(F.max_pool2d(self.conv4(x), 2))  # (n, 64, s/4, s/4)
        x = F.relu_(self.fc1(x.flatten(1)))  # (n, 512)
        x = self.extra_fc(self.bn1(x))  # (n, 512)
        scores: Tensor = self.fc2(self.bn2(x))  # (n, n_classes)
        return scores


def _norm(norm: Norm) -> nn.Module:
    return nn.Identity() if norm == "off" else nn.BatchNorm1d(HIDDEN, affine=norm == "affine")
