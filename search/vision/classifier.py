"""A trained image classifier, stored in a single self-contained file.

The file is in the safetensors format: loading it runs no code. Its metadata describe the network,
the scaling of its input and its classes. The same trial always gives the same bytes. This module
uses neither Optuna nor the database.
"""

import dataclasses
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from search.errors import UserError
from search.study.choices import Choices
from search.vision.datasets import pictures
from search.vision.datasets.pictures import Picture, Whites
from search.vision.images import scaled
from search.vision.network import Network

METADATA = "search"
"""Key of the only metadata entry: safetensors writes several entries in random order."""
PIXELS = "uint8 / 127.5 - 1"


@dataclass(frozen=True, kw_only=True)
class About:
    """Metadata of a weights file."""

    study: str
    trial: int
    """The trial's number in the study."""
    variant: str | None
    choices: Choices
    channels: int
    size: int
    """Height and width of the images, in pixels."""
    n_classes: int
    classes: tuple[str, ...]
    """Class names by label; empty if the classes have no names."""
    test_accuracy: float | None
    validation_accuracy: float | None
    whites: Whites = field(default_factory=dict)
    """The value of white in pictures that do not have 8-bit samples; see `datasets.pictures`."""
    pixels: str = PIXELS
    """How pixels are scaled for the network."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`.

        Raises:
            TypeError, ValueError: the text has another format.
        """
        fields: dict[str, Any] = json.loads(text)
        fields["choices"] = Choices(**fields["choices"])
        fields["classes"] = tuple(fields["classes"])
        about = cls(**fields)
        if about.pixels != PIXELS:
            raise ValueError(f"pixels must be {PIXELS!r}, not {about.pixels!r}")
        if about.classes and len(about.classes) != about.n_classes:
            raise ValueError(f"{len(about.classes)} names for {about.n_classes} classes")
        return about


def serialized(network: Network, about: About) -> bytes:
    """Return the content of a file for `load`, from a network on any device."""
    state = network.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return save(tensors, {METADATA: about.to_json()})


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained network on the CPU, in eval mode."""

    network: Network
    about: About

    @torch.inference_mode()
    def classify(self, image: str | Path | Image.Image | Tensor) -> tuple[str, float]:
        """Return the most likely class of an image and its probability, from 0 to 1.

        A picture, or the path of one, may have any size and colors: its middle square is converted
        for the network. Of several frames or pages, the first is used. Samples that are not 8-bit
        are scaled as in training. A tensor must have shape (channels, size, size) and type uint8.
        A class without a name is returned as its number.

        Raises:
            UserError: there is no picture at the path, it is corrupt, its value of white is
                unknown, or the tensor has the wrong shape or type.
        """
        pixels = image if isinstance(image, Tensor) else self._pixels(image)
        expected = (self.about.channels, self.about.size, self.about.size)
        if pixels.shape != expected or pixels.dtype != torch.uint8:
            raise UserError(
                f"classify: a tensor must be uint8 of shape {expected}, not {pixels.dtype} of "
                f"{tuple(pixels.shape)}; give a picture to have it resized"
            )
        scores = self.network(scaled(pixels.unsqueeze(0).cpu(), torch.float32))
        probability, index = scores.softmax(1).max(1)
        number = int(index)
        name = self.about.classes[number] if self.about.classes else str(number)
        return name, probability.item()

    def _pixels(self, image: str | Path | Image.Image) -> Tensor:
        size, channels = self.about.size, self.about.channels
        try:
            with (
                nullcontext(Picture.of(image))
                if isinstance(image, Image.Image)
                else pictures.opened(image, size)
            ) as picture:
                pixels = pictures.square(picture, size, channels, self.about.whites)
            return torch.from_numpy(pixels)
        except UserError as error:
            raise UserError(f"classify {image}: {error}") from error
        except Exception as error:
            raise UserError(f"classify {image}: {pictures.fault(error)}; give a picture") from error


def load(path: str | Path) -> Classifier:
    """Load a classifier from a weights file, which need not be trusted.

    Raises:
        UserError: there is no such file, or this service did not write it.
    """
    if not Path(path).is_file():
        raise UserError(f"load {path}: there is no such file; give a weights file of a search")
    try:
        with safe_open(path, framework="pt") as file:
            about = About.from_json((file.metadata() or {})[METADATA])
        network = Network(
            about.choices, channels=about.channels, size=about.size, n_classes=about.n_classes
        ).to(memory_format=torch.channels_last)
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"load {path}: not a weights file of this service ({cause})") from error
    return Classifier(network=network.eval().requires_grad_(False), about=about)
