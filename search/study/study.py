"""What a study is, and where it is found.

A study is a frozen value: a dataset, a budget, ranges, fixed variants, a sampler and a pruner.
`load` takes one from the package `studies` by its name, or from any Python file by its path. What
is stored of it in the database, so that nobody joins it with another one, is its definition.
"""

import csv
import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
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
from search.study.shipped import import_package, known, shipped
from search.study.trial_attributes import SEED

Select = Literal["test", "validation"]

PublishedFigures = Mapping[tuple[str, int], Mapping[str, float]]

NAME_BYTES = 100
MOST_EPOCHS = 2**31 - 1
"""The largest number in a column of PostgreSQL's INTEGER."""
PUBLISHED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""The figures that may have been published for an epoch, by their names in `Epoch`."""


@dataclass(frozen=True, kw_only=True)
class _Published:
    dataset: str | None
    """None for that of the study, whichever it is."""
    figures: PublishedFigures


@dataclass(frozen=True, kw_only=True)
class Study:
    """One search: what is trained, on which images, how long, and what is tried.

    Raises:
        UserError: a number is out of its bounds, or a range or a variant does not fit.
    """

    name: str
    """In the database; also of a folder, so without / and of 100 bytes at most."""
    dataset: str
    """`cifar10`, `digits`, `torchvision:NAME` or `folder:PATH`; see `search.study.dataset_spec`."""
    variants: Mapping[str, Choices] = field(default_factory=dict)
    """The fixed trials by name, in the order in which they run; never pruned."""
    ranges: Ranges = field(default_factory=lambda: RANGES)
    """What is sampled for every other trial."""
    trials: int = 60
    """The budget: finished trials, the variants among them."""
    epochs: int = 10
    """Passes over the training images for a trial that is not pruned."""
    batch_size: int = 32
    images: int | None = None
    """Train on the first so many images, and test on the first so many at most; None for all."""
    select: Select = "test"
    """The split whose accuracy prunes trials and ranks them."""
    seed: int = 0
    """From it and a trial's number follow all of the trial's random draws."""
    sampler: SamplerFactory = field(default_factory=TPE)
    pruner: BasePruner = field(default_factory=SuccessiveHalving)
    published: Path | None = None
    """A CSV file (variant, epoch, and the columns `PUBLISHED`) of figures that somebody else
    published for the variants, trained on all images of the dataset; None if nobody did. A column
    `dataset` names it where the file may come to stand beside another one."""

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
                raise UserError(f"{name} is a whole number of {lowest} or more, not {value!r}")
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"epochs is {MOST_EPOCHS} or less, not {self.epochs}")
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise UserError(f"seed is a whole number from 0 to 2**63 - 1, not {self.seed!r}")
        if self.select not in ("test", "validation"):
            raise UserError(f"select is test or validation, not {self.select!r}")
        check_sampler(self.sampler, self.ranges)
        check_pruner(self.pruner)
        _ = self.published_figures  # read now, so that a faulty file is known before the search

    def n_held_out(self, total: int) -> int:
        """Return how many of `total` training images, the last, are for selection only.

        It is a tenth, and no more than are trained on.
        """
        if self.select == "test":
            return 0
        return min(total // 10, self.images or total)

    def n_test(self, total: int) -> int:
        """Return how many of `total` test images, the first, are tested on."""
        return min(total, self.images or total)

    def n_train(self, total: int) -> int:
        """Return how many of `total` training images, the first, are trained on.

        Raises:
            UserError: there are not so many, or they leave a last batch of a single image, which
                batch normalization refuses.
        """
        available = total - self.n_held_out(total)
        if self.select == "validation" and available == total:
            raise UserError(
                f"--select validation: a tenth of {total} training images is less than one; "
                "give --select test"
            )
        if self.images is not None and self.images > available:
            raise UserError(f"--images {self.images}: there are {available} images to train on")
        n_train = self.images or available
        if n_train % self.batch_size == 1:
            raise UserError(
                f"{n_train} images in batches of {self.batch_size} leave a last batch of a single "
                f"image, which cannot be normalized; give --images {n_train - 1}"
            )
        return n_train

    def trial_seed(self, trial: FrozenTrial) -> int:
        """Return the seed of all draws that training `trial` makes."""
        seed = trial.user_attrs.get(SEED)
        return derive_seed(self.seed, "trial", trial.number) if seed is None else int(seed)

    def repeat_seed(self, repeat: int) -> int:
        """Return the seed of re-run `repeat`: of whichever trial, so that re-runs can be paired."""
        return derive_seed(self.seed, "repeat", repeat)

    def definition(self, data_digest: str) -> Definition:
        """Return what every process that joins this study must agree on, as JSON values.

        The budget and the variants are not in it: both can be added to. `data_digest` stands for
        the images themselves.
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
            UserError: the definition is of another dataset.
        """
        if definition is None:
            return self
        if definition["dataset"] != self.dataset:
            raise UserError(
                f"--name {self.name}: the study of this name differs: dataset is "
                f"{definition['dataset']!r} in the database and {self.dataset!r} here. Give the "
                "--study that it was made with"
            )
        names = ("epochs", "batch_size", "images", "select", "seed")
        fields: dict[str, Any] = {name: definition[name] for name in names}
        return replace(self, **fields)

    @property
    def trained_on(self) -> str:
        """Which of the training images a trial is trained on, in words."""
        images = f"{self._total} images" if self._total else "images"
        if self._is_on_part:
            return f"the first {self.images} {f'of {images}' if self._total else 'images'}"
        if self.select == "validation":
            return f"all {images} but the last tenth, held out for validation"
        return f"all {images}"

    @property
    def incomparable(self) -> str | None:
        """Why the published figures are none that a trial could reach, in words.

        None if they can be compared, epoch by epoch, or if nothing was published.
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
        """What a reader of the best trial's accuracy must know."""
        if self.select == "validation":
            return (
                "Trials were chosen on held-out training images; test accuracy was measured once."
            )
        return (
            "The best of many trials on the test set is optimistic: train the winner again with "
            "fresh seeds before you quote it."
        )

    def published_for(self, variant: str | None) -> Mapping[int, Mapping[str, float]]:
        """Return a variant's published figures by epoch; None stands for a trial that is none."""
        figures = self.published_figures.items()
        return {epoch: found for (name, epoch), found in figures if name == variant}

    @property
    def published_figures(self) -> PublishedFigures:
        """Published figures by variant and epoch; empty where nothing was published."""
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
                f"published: {self.published} is no CSV file with the columns variant, epoch, "
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
        raise UserError(f"a study's name can be that of a folder, with no / in it, not {name!r}")
    if len(name.encode()) > NAME_BYTES:
        raise UserError(f"a study's name has at most {NAME_BYTES} bytes, not {len(name.encode())}")


def _check_variant_name(name: object) -> None:
    """Refuse a name that `find` and `--trial` would take for another trial, or that is in no line.

    Raises:
        UserError: it is such a one.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"a variant's name is a text in one line, not {name!r}")
    if name == "best" or name.isdecimal():
        raise UserError(
            f"a variant's name is neither `best` nor a number, which stand for trials, not {name!r}"
        )


def load(name: str) -> Study:
    """Return the study called `name`, or the one that the Python file `name` defines as `study`.

    Raises:
        UserError: there is no such study or file, or the file defines none.
    """
    if name.endswith(".py"):
        module = _loaded(name)
    elif name in known():
        module = shipped(name)
    else:
        way_out = (
            f"did you mean {name}.py?"
            if Path(f"{name}.py").is_file()
            else (f"known: {', '.join(known())}, or the path of a Python file that defines `study`")
        )
        raise UserError(f"--study {name}: unknown study; {way_out}")
    study = getattr(module, "study", None)
    if not isinstance(study, Study):
        raise UserError(
            f"--study {name}: it defines no `study` of type search.study.Study; write in it "
            'study = Study(name="…", dataset="…")'
        )
    return study


def _loaded(name: str) -> ModuleType:
    """Run the Python file `name`, which may import the files beside it.

    It runs as it is now: Python's compiled copy of a file is out of date if the file was changed
    within a second and kept its length. What it prints goes to standard error, since a command's
    output may be JSON.

    Raises:
        UserError: there is no such file, or it raises an error.
    """
    path = Path(name).absolute()
    # A name that no import has, so that the file hides no module; without a dot, for no package.
    loader = SourceFileLoader(f"study file {str(path).replace('.', ' ')}", str(path))
    spec = spec_from_file_location(loader.name, path, loader=loader)
    if spec is None or not path.is_file():
        raise UserError(f"--study {name}: there is no such file in {Path.cwd()}; give its path")
    import_package()  # a folder `studies` of the user's own must not be found in its place
    # At the end, so that a neighbour called torch.py hides nothing, but before the current folder;
    # and for good, since the file's functions may import as well.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(len(sys.path) - (sys.path[-1] == str(Path.cwd())), folder)
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # where its dataclasses look for what they are told of
    try:
        with redirect_stdout(sys.stderr):
            exec(loader.source_to_code(path.read_bytes(), path), vars(module))
    except (Exception, SystemExit) as error:  # it is a user's input, whatever is wrong with it
        del sys.modules[loader.name]
        raise UserError(f"--study {name}{_told(error, path)}") from error
    return module


def _told(error: BaseException, path: Path) -> str:
    """Return in which line of the file, and what is wrong with it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    where = f", line {lines[-1]}" if lines else ""
    told = f"{where}: {kind}{' '.join(str(error).split())}"
    if isinstance(error, ImportError) and "relative import" in told:
        told += "; a study file is in no package: `from helpers import x` takes the file beside it"
    return told
