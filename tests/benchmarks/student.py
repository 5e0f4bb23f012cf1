"""The loop that a student writes: PyTorch's own tutorial on CIFAR-10, with the course's network."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from search.vision.images import Images, load_dataset
from studies.cifar.choices import Choices, learning_rate
from tests.support.reference_network import Report

BATCH = 32
LOADERS = 2
"""Processes that load images."""


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 gives them: one PIL image at a time."""

    def __init__(self, images: Images) -> None:
        self.pixels = torch.cat(images.parts).permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def images_of(root: Path, n: int) -> tuple[PilImages, PilImages]:
    """Return the first `n` images of CIFAR-10 to train on, and at most as many to test on, as
    `--images` does."""
    dataset = load_dataset("cifar10", root)
    n_test = min(n, len(dataset.test))
    return PilImages(dataset.train.between(0, n)), PilImages(dataset.test.between(0, n_test))


def optimizer_of(choices: Choices, network: nn.Module) -> Optimizer:
    momentum = {"momentum": 0.9} if choices.optimizer == "SGD" else {}
    made: Optimizer = getattr(torch.optim, choices.optimizer)(
        network.parameters(), lr=choices.lr, weight_decay=choices.weight_decay, **momentum
    )
    return made


def train(
    choices: Choices, images: tuple[PilImages, PilImages], epochs: int
) -> Iterator[tuple[float, nn.Module]]:
    """Yield the test accuracy after each epoch, and the network."""
    network = Report(choices)
    optimizer = optimizer_of(choices, network)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(images[0], BATCH, shuffle=True, num_workers=LOADERS)
    test_loader = DataLoader(images[1], BATCH, shuffle=False, num_workers=LOADERS)
    for epoch in range(1, epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(choices, epoch, epochs)
        network.train()
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        network.eval()
        correct = total = 0
        with torch.no_grad():
            for inputs, labels in test_loader:
                _, predicted = torch.max(network(inputs), 1)
                total += labels.size(0)
                correct += (predicted == labels).sum().item()
        yield correct / total, network
