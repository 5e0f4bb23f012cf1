"""A trained network that classifies images, as a file that needs nothing beside it.

The file is a safetensors file: loading it runs no code. Its metadata say which network the weights
are of, how it takes its pixels, and what its classes are called. The same trial gives the same
bytes. Knows neither Optuna nor a database.
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
"""The one entry of the file's metadata: safetensors writes several in an order of chance."""
PIXELS = "uint8 / 127.5 - 1"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file of weights says of itself."""

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
    """The names of the classes in their order; empty if they have none."""
    test_accuracy: float | None
    validation_accuracy: float | None
    whites: Whites = field(default_factory=dict)
    """What is white in pictures whose samples are not of 8 bits; see `datasets.pictures`."""
    pixels: str = PIXELS
    """How a pixel becomes the network's input."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote.

        Raises:
            TypeError, ValueError: it is of another form.
        """
        fields: dict[str, Any] = json.loads(text)
        fields["choices"] = Choices(**fields["choices"])
        fields["classes"] = tuple(fields["classes"])
        about = cls(**fields)
        if about.pixels != PIXELS:
            raise ValueError(f"pixels are {about.pixels!r}, and only {PIXELS!r} is known")
        if about.classes and len(about.classes) != about.n_classes:
            raise ValueError(f"{len(about.classes)} names are given to {about.n_classes} classes")
        return about


def packed(network: Network, about: About) -> bytes:
    """Return the content of a file that `load` reads, from a network on any device."""
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
        """Return the likeliest class of an image and its probability, from 0 to 1.

        A picture, or the path of one, may have any size and colours: its middle square is brought
        to those of the network; of several frames or pages, the first is taken. Samples that are
        not of 8 bits are scaled as those were that the network has learnt from. A tensor is
        (channels, size, size), uint8. A class without a name is called by its number.

        Raises:
            UserError: there is no picture at that path, it is corrupt, what is white in it cannot
                be told, or the tensor is of another form.
        """
        pixels = image if isinstance(image, Tensor) else self._pixels(image)
        expected = (self.about.channels, self.about.size, self.about.size)
        if pixels.shape != expected or pixels.dtype != torch.uint8:
            raise UserError(
                f"classify: a tensor is uint8 of shape {expected}, not {pixels.dtype} of "
                f"{tuple(pixels.shape)}; give a picture to have it brought to that size"
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
            raise UserError(f"classify {image}: {pictures.fault(error)}; name a picture") from error


def load(path: str | Path) -> Classifier:
    """Return the classifier in a file of weights, wherever the file is from.

    Raises:
        UserError: there is no such file, or it is not one that this service wrote.
    """
    if not Path(path).is_file():
        raise UserError(f"load {path}: there is no such file; name one that a search kept")
    try:
        with safe_open(path, framework="pt") as file:
            about = About.from_json((file.metadata() or {})[METADATA])
        network = Network(
            about.choices, channels=about.channels, size=about.size, n_classes=about.n_classes
        ).to(memory_format=torch.channels_last)
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"load {path}: no weights that this service kept ({cause})") from error
    return Classifier(network=network.eval().requires_grad_(False), about=about)
