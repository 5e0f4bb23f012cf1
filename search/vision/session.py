"""The images of a study on one device, and trainings on them."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self

import torch
from torch import nn
from typing_extensions import TypeVar

from search.errors import UserError
from search.study.training import Place, Run
from search.vision.classifier import qualified
from search.vision.datasets.pictures import Whites
from search.vision.image_classification import ImageClassification, ImageShape, Precision
from search.vision.images import Dataset, Images, load_dataset
from search.vision.optimizers import by_name
from search.vision.precision import choose
from search.vision.training import ImageTraining

C = TypeVar("C", default=Any)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The images of a training, all on one device."""

    train: Images
    validation: Images | None
    """Held out of the training images. If set, the test images are used only after the last epoch.
    """
    test: Images
    n_classes: int
    classes: tuple[str, ...] = ()
    """The names of the classes by label; empty if they have none."""
    whites: Whites = field(default_factory=dict)
    """See `search.vision.datasets.pictures`; empty if all pictures had samples of 8 bits."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        n_train: int,
        n_held_out: int = 0,
        n_test: int | None = None,
        device: torch.device,
    ) -> "Splits":
        """Split a dataset: train on the first `n_train` images, hold out the last `n_held_out`.

        The first `n_test` test images are used; None for all.
        """
        total = len(dataset.train)
        assert n_train + n_held_out <= total, "guaranteed by ImageClassification.n_train"
        held_out = dataset.train.between(total - n_held_out, total) if n_held_out else None
        return cls(
            train=dataset.train.between(0, n_train).to(device),
            validation=held_out.to(device) if held_out else None,
            test=dataset.test.between(0, n_test or len(dataset.test)).to(device),
            n_classes=dataset.n_classes,
            classes=dataset.classes,
            whites=dataset.whites,
        )

    @property
    def shape(self) -> ImageShape:
        return ImageShape(
            channels=self.train.channels, size=self.train.size, n_classes=self.n_classes
        )


@dataclass(frozen=True, kw_only=True)
class ImageSession(Generic[C]):
    """The images of a study on one device."""

    trainer: ImageClassification[C]
    splits: Splits
    digest: str
    device: torch.device
    precision: Precision

    made: ClassVar[type[ImageTraining]] = ImageTraining
    """The class of its trainings."""

    @classmethod
    def open(cls, trainer: ImageClassification[C], place: Place) -> Self:
        """Load the images, downloading them if necessary.

        Raises:
            UserError: they are unavailable or too few, or the device would emulate the precision.
        """
        device = torch.device(place.device)
        precision = choose(device, trainer.precision)
        dataset = load_dataset(trainer.dataset, place.data, place.say)
        total = len(dataset.train)
        splits = Splits.of(
            dataset,
            n_train=trainer.n_train(total, place.metric),
            n_held_out=trainer.n_held_out(total, place.metric),
            n_test=trainer.n_test(len(dataset.test)),
            device=device,
        )
        return cls(
            trainer=trainer,
            splits=splits,
            digest=dataset.digest,
            device=device,
            precision=precision,
        )

    def start(self, run: Run[C]) -> ImageTraining:
        """Return a new training of the run's choices.

        Raises:
            UserError: `build` or `optimizer` does not return what it must.
        """
        trainer = self.trainer
        network = self.build(run)
        optimizer = (trainer.optimizer or by_name)(run.choices, network)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(f"optimizer must return an optimizer, not {optimizer!r}")
        return self.made(
            network,
            optimizer,
            self.splits,
            run,
            batch_size=trainer.batch_size,
            precision=self.precision,
            build=qualified(trainer.build),
            learning_rate=trainer.learning_rate,
        )

    def build(self, run: Run[C]) -> nn.Module:
        """Return the network on the device, with weights that depend only on the run's seed.

        They are the same on every device. The state of the global generator does not change.

        Raises:
            UserError: `build` does not return a network of the right shape.
        """
        shape = self.splits.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed_for("weights"))
            network = self.trainer.build(run.choices, shape)
            if not isinstance(network, nn.Module):
                raise UserError(f"build must return a torch.nn.Module, not {network!r}")
            _check_shape(network, shape)
        network.to(memory_format=torch.channels_last)
        return network.to(self.device)


@torch.no_grad()
def _check_shape(network: nn.Module, shape: ImageShape) -> None:
    """Check that the network maps images to logits.

    Raises:
        UserError: it fails, or its output has another shape.
    """
    images = torch.zeros(2, shape.channels, shape.size, shape.size)
    expected = (2, shape.n_classes)
    mode = network.training
    logits = network.eval()(images)  # batch statistics stay as they are
    network.train(mode)
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else logits
    if found != expected:
        raise UserError(
            f"build returned a network whose output for images {tuple(images.shape)} is {found}, "
            f"not logits {expected}"
        )
