"""A trained image classifier, stored in a single self-contained file.

The file is in the safetensors format: loading it runs no code. Its metadata describe the network,
the scaling of its input and its classes. The same trial always gives the same bytes. This module
uses neither Optuna nor the database.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from search.errors import UserError
from search.study import study_file
from search.study.shipped import known
from search.study.study import Study
from search.study.training import About, Trainer
from search.vision.datasets import pictures
from search.vision.datasets.pictures import Picture, Whites
from search.vision.image_classification import ImageClassification, ImageShape
from search.vision.images import scaled

METADATA = "search"
"""Key of the only metadata entry: safetensors writes several entries in random order."""
PIXELS = "uint8 / 127.5 - 1"


@dataclass(frozen=True, kw_only=True)
class ImageAbout:
    """Metadata of a weights file."""

    about: About
    build: str
    """The function that built the network, by its qualified name."""
    shape: ImageShape
    classes: tuple[str, ...]
    """Class names by label; empty if the classes have no names."""
    whites: Whites = field(default_factory=dict)
    """The value of white in pictures that do not have 8-bit samples; see `datasets.pictures`."""
    pixels: str = PIXELS
    """How pixels are scaled for the network."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`.

        Raises:
            TypeError, ValueError: the text has another format.
        """
        fields: dict[str, Any] = json.loads(text)
        fields["about"] = About(**fields["about"])
        fields["shape"] = ImageShape(**fields["shape"])
        fields["classes"] = tuple(fields["classes"])
        found = cls(**fields)
        if found.pixels != PIXELS:
            raise ValueError(f"pixels must be {PIXELS!r}, not {found.pixels!r}")
        if found.classes and len(found.classes) != found.shape.n_classes:
            raise ValueError(f"{len(found.classes)} names for {found.shape.n_classes} classes")
        return found


def serialized(network: nn.Module, about: ImageAbout) -> bytes:
    """Return the content of a file for `load`, from a network on any device."""
    state = network.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return save(tensors, {METADATA: about.to_json()})


def qualified(function: Callable[..., Any]) -> str:
    """Return the name of a function and its module."""
    return f"{function.__module__}.{function.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained network on the CPU, in eval mode."""

    network: nn.Module
    about: ImageAbout

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
        shape = self.about.shape
        expected = (shape.channels, shape.size, shape.size)
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
        size, channels = self.about.shape.size, self.about.shape.channels
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


def load(path: str | Path, *, study: str | None = None) -> Classifier:
    """Load a classifier from a weights file, which need not be trusted.

    `study` is the study's file, or the name of a shipped study: it builds the network. It may be
    left out for the network of the shipped studies.

    Raises:
        UserError: there is no such file, this service did not write it, or it is of another study.
    """
    if not Path(path).is_file():
        raise UserError(f"load {path}: there is no such file; give a weights file of a search")
    if Path(path).suffix == Trainer.suffix:
        raise UserError(
            f"load {path}: it is the state of a training and no image classifier; read it with "
            "search.weights.state"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = ImageAbout.from_json((file.metadata() or {})[METADATA])
        of = _study(path, about, study)
        assert isinstance(of.trainer, ImageClassification), "checked by _study"
        network = of.trainer.build(_choices(path, of, about), about.shape)
        weights = load_file(path)
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"load {path}: not a weights file of this service ({cause}); that of a training of "
            "your own is read with search.weights.state"
        ) from error
    network.to(memory_format=torch.channels_last)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"load {path}: the study {of.name} now builds a network that these weights do not fit "
            f"({cause})"
        ) from error
    return Classifier(network=network.eval().requires_grad_(False), about=about)


def _choices(path: str | Path, of: Study, about: ImageAbout) -> Any:
    try:
        return of.space.of(about.about.params)
    except UserError as error:
        raise UserError(f"load {path}: {error}; its study has other choices now") from error


def _study(path: str | Path, about: ImageAbout, named: str | None) -> Study:
    """Return the study that builds the network of a weights file.

    Raises:
        UserError: it is not a shipped one and not named, or trains something else.
    """
    for name in known() if named is None else [named]:
        found = study_file.load(name)
        if isinstance(found.trainer, ImageClassification) and (
            named is not None or qualified(found.trainer.build) == about.build
        ):
            return found
    raise UserError(
        f"load {path}: its network is that of the study {about.about.study}; give "
        f'study="FILE.py", that study\'s file'
        if named is None
        else f"load {path}: the study {named} trains no image classifier"
    )
