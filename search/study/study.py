"""Studies and how they are loaded.

A study is a frozen value: a dataset, a budget, ranges, fixed variants, a sampler and a pruner.
`load` loads a study from the package `studies` by name, or from a Python file by path. Its
definition is stored in the database, so that a worker with other settings cannot join it.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from optuna.distributions import distribution_to_json
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from search.errors import UserError
from search.study.choices import RANGES, Choices, Ranges, check_params, check_ranges
from search.study.dataset_spec import DatasetName
from search.study.definition import Definition, described
from search.study.pruners import SuccessiveHalving, check_pruner
from search.study.samplers import TPE, SamplerFactory, check_sampler
from search.study.seeds import derive_seed
from search.study.trial_attributes import SEED

Select = Literal["test", "validation"]

PublishedFigures = Mapping[tuple[str, int], Mapping[str, float]]

NAME_BYTES = 100
MOST_EPOCHS = 2**31 - 1
"""The maximum of PostgreSQL's INTEGER type."""
PUBLISHED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""Metrics that may be published for an epoch, by their names in `Epoch`."""


@dataclass(frozen=True, kw_only=True)
class _Published:
    dataset: str | None
    """None for the study's dataset."""
    figures: PublishedFigures


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search: dataset, hyperparameter ranges and budget.

    Raises:
        UserError: a number is out of bounds, or a range or a variant is invalid.
    """

    name: str
    """Name in the database. It also names a folder: at most 100 bytes, without /."""
    dataset: str
    """`cifar10`, `digits`, `torchvision:NAME` or `folder:PATH`; see `search.study.dataset_spec`."""
    variants: Mapping[str, Choices] = field(default_factory=dict)
    """The fixed trials by name, in the order in which they run; never pruned."""
    ranges: Ranges = field(default_factory=lambda: RANGES)
    """Distributions from which the other trials are sampled."""
    trials: int = 60
    """The budget: number of finished trials, including the variants."""
    epochs: int = 10
    """Number of epochs of a trial that is not pruned."""
    batch_size: int = 32
    images: int | None = None
    """Number of training images and maximum number of test images, from the first; None for all."""
    select: Select = "test"
    """The split whose accuracy prunes and ranks trials."""
    seed: int = 0
    """All random draws of a trial depend only on this seed and the trial's number."""
    sampler: SamplerFactory = field(default_factory=TPE)
    pruner: BasePruner = field(default_factory=SuccessiveHalving)
    published: Path | None = None
    """A CSV file of published metrics of the variants, trained on all images of the dataset; None
    for none. Its columns are variant, epoch, `PUBLISHED` and, optionally, `dataset`: without it,
    the metrics are for the study's dataset."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        DatasetName.parse(self.dataset)
        check_ranges(self.ranges)
        for name, choices in self.variants.items():
            _check_variant_name(name)
            try:
                check_params(choices.params(), self.ranges, complete=True)
            except UserError as error:
                raise UserError(f"variant {name}: {error}") from None
        for name, lowest in (("trials", 1), ("epochs", 1), ("batch_size", 2), ("images", 2)):
            value = getattr(self, name)
            if name == "images" and value is None:
                continue
            if not _is_whole(value) or value < lowest:
                raise UserError(
                    f"{name} must be a whole number of at least {lowest}, not {value!r}"
                )
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"epochs must be at most {MOST_EPOCHS}, not {self.epochs}")
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be a whole number from 0 to 2**63 - 1, not {self.seed!r}")
        if self.select not in ("test", "validation"):
            raise UserError(f"select must be test or validation, not {self.select!r}")
        check_sampler(self.sampler, self.ranges)
        check_pruner(self.pruner)
        _ = self.published_figures  # read now, so that an invalid file is an error immediately

    def n_held_out(self, total: int) -> int:
        """Return how many of the last of `total` training images are held out for validation.

        This is a tenth, but at most `images`.
        """
        if self.select == "test":
            return 0
        return min(total // 10, self.images or total)

    def n_test(self, total: int) -> int:
        """Return how many of the first of `total` test images are used."""
        return min(total, self.images or total)

    def n_train(self, total: int) -> int:
        """Return how many of the first of `total` training images are used.

        Raises:
            UserError: there are too few, or the last batch would be a single image, which batch
                normalization does not accept.
        """
        available = total - self.n_held_out(total)
        if self.select == "validation" and available == total:
            raise UserError(
                f"--select validation: a tenth of {total} training images is less than one; "
                "give --select test"
            )
        if self.images is not None and self.images > available:
            raise UserError(f"--images {self.images}: there are {available} training images")
        n_train = self.images or available
        if n_train % self.batch_size == 1:
            raise UserError(
                f"{n_train} images in batches of {self.batch_size} leave a last batch of a single "
                f"image, which cannot be normalized; give --images {n_train - 1}"
            )
        return n_train

    def trial_seed(self, trial: FrozenTrial) -> int:
        """Return the seed of all random draws in the training of `trial`."""
        seed = trial.user_attrs.get(SEED)
        return derive_seed(self.seed, "trial", trial.number) if seed is None else int(seed)

    def repeat_seed(self, repeat: int) -> int:
        """Return the seed of re-run `repeat`, equal for all trials so that re-runs are paired."""
        return derive_seed(self.seed, "repeat", repeat)

    def definition(self, data_digest: str) -> Definition:
        """Return the settings on which all workers must agree, as JSON values.

        The budget and the variants are left out, since both can be extended. `data_digest`
        identifies the images.
        """
        ranges = {
            f"range of {name}": distribution_to_json(distribution)
            for name, distribution in self.ranges.items()
        }
        return {
            "dataset": self.dataset,
            "data": data_digest,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "images": self.images,
            "select": self.select,
            "seed": self.seed,
            "sampler": described(self.sampler),
            "pruner": described(self.pruner),
            **ranges,
        }

    def defined(self, definition: Definition | None) -> Self:
        """Return this study with the epochs, batch size, images, split and seed of a definition.

        Raises:
            UserError: the definition has another dataset.
        """
        if definition is None:
            return self
        if definition["dataset"] != self.dataset:
            raise UserError(
                f"--name {self.name}: the study of this name differs: dataset is "
                f"{definition['dataset']!r} in the database and {self.dataset!r} here. Give the "
                "--study with which it was created"
            )
        names = ("epochs", "batch_size", "images", "select", "seed")
        fields: dict[str, Any] = {name: definition[name] for name in names}
        return replace(self, **fields)

    @property
    def trained_on(self) -> str:
        """The training images that are used, as text."""
        images = f"{self._total} images" if self._total else "images"
        if self._is_on_part:
            return f"the first {self.images} {f'of {images}' if self._total else 'images'}"
        if self.select == "validation":
            return f"all {images} but the last tenth, held out for validation"
        return f"all {images}"

    @property
    def incomparable(self) -> str | None:
        """Why the published metrics cannot be compared with those of a trial, as text.

        None if they can be compared, epoch by epoch, or if none are published.
        """
        reasons = []
        if self._published.dataset not in (None, self.dataset):
            reasons.append(f"{self.dataset} and not {self._published.dataset}")
        if self._is_on_part or self.select == "validation":
            reasons.append(self.trained_on)
        return f"trained on {'; on '.join(reasons)}" if self.published_figures and reasons else None

    @property
    def _total(self) -> int | None:
        return DatasetName.parse(self.dataset).n_train

    @property
    def _is_on_part(self) -> bool:
        return self.images not in (None, self._total)

    @property
    def caution(self) -> str:
        """A note on how to interpret the best trial's accuracy."""
        if self.select == "validation":
            return (
                "Trials were chosen on held-out training images; test accuracy was measured once."
            )
        return (
            "The best of many trials on the test set is optimistic: re-run the winner with fresh "
            "seeds before you quote it."
        )

    def published_for(self, variant: str | None) -> Mapping[int, Mapping[str, float]]:
        """Return a variant's published metrics by epoch; empty for None."""
        figures = self.published_figures.items()
        return {epoch: found for (name, epoch), found in figures if name == variant}

    @property
    def published_figures(self) -> PublishedFigures:
        """Published metrics by variant and epoch; empty if none are published."""
        return self._published.figures

    @cached_property
    def _published(self) -> "_Published":
        if self.published is None:
            return _Published(dataset=None, figures={})
        try:
            with self.published.open(newline="") as lines:
                rows = list(csv.DictReader(lines))
            figures = {
                (row["variant"], int(row["epoch"])): {name: float(row[name]) for name in PUBLISHED}
                for row in rows
            }
            (dataset,) = {row.get("dataset") or None for row in rows} or {None}
            return _Published(dataset=dataset, figures=figures)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"published: {self.published} is not a CSV file with the columns variant, epoch, "
                f"{', '.join(PUBLISHED)} ({type(error).__name__}: {error})"
            ) from error


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_name(name: str) -> None:
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or set(name) <= {".", " "}
        or "/" in name
        or "\\" in name
    ):
        raise UserError(f"a study's name must be a valid folder name without /, not {name!r}")
    if (size := len(name.encode())) > NAME_BYTES:
        raise UserError(f"a study's name must have at most {NAME_BYTES} bytes, not {size}")


def _check_variant_name(name: object) -> None:
    """Check that a variant's name is one line, and distinct from other values of `--trial`.

    Raises:
        UserError: it is not.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"a variant's name must be one line of text, not {name!r}")
    if name == "best" or name.isdecimal():
        raise UserError(
            f"a variant's name must not be `best` or a number, which denote trials, not {name!r}"
        )
