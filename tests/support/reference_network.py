"""The network as the course report has it, to compare with."""

import torch.nn.functional as F
from torch import Tensor, nn

from studies.cifar.choices import Choices


class Report(nn.Module):
    """The network as the report's author wrote it: ReLU, then pooling; every layer spelt out."""

    def __init__(self, choices: Choices, *, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=choices.conv_bias)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=choices.conv_bias)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=choices.conv_bias)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=choices.conv_bias)
        self.fc1 = nn.Linear(64 * (size // 4) ** 2, 512, bias=choices.fc_bias)
        if choices.bn1 != "off":
            self.bn1 = nn.BatchNorm1d(512, affine=choices.bn1 == "affine")
        if choices.extra_fc:
            self.extra_fc = nn.Sequential(nn.Linear(512, 512, bias=choices.fc_bias), nn.ReLU())
        if choices.bn2 != "off":
            self.bn2 = nn.BatchNorm1d(512, affine=choices.bn2 == "affine")
        self.fc2 = nn.Linear(512, 10, bias=choices.fc_bias)
        self.choices = choices

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2, 2)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.max_pool2d(x, 2, 2)
        x = F.relu(self.fc1(x.reshape(len(x), -1)))
        if self.choices.bn1 != "off":
            x = self.bn1(x)
        if self.choices.extra_fc:
            x = self.extra_fc(x)
        if self.choices.bn2 != "off":
            x = self.bn2(x)
        scores: Tensor = self.fc2(x)
        return scores
