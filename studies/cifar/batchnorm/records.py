"""Probes of networks over several seeds: how often accuracy collapses, and what accompanies it.

They are stored in a CSV file, a line for each epoch, so that a stopped command can resume.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from search.errors import UserError
from search.files import write_all
from search.reporting.fitted_table import FittedTable

NEAR_DEAD = 0.01
"""A unit is nearly dead if it is above zero for a smaller share of the images than this."""
COLLAPSE = 0.10
"""Accuracy has collapsed if it is this much or more below that of the best epoch before."""
RULE = (
    f"An epoch has collapsed if its test accuracy is {COLLAPSE:.2f} or more below that of the best "
    "epoch before it, or if a loss is not finite."
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measurements of a network after an epoch, on the same images for all epochs; losses in nats.

    Those of the gradient are over the training batches of that epoch.
    """

    train_mode_loss: float
    """Loss with each batch normalized by its own statistics, as in training."""
    eval_mode_loss: float
    """Loss with the running statistics."""
    fresh_statistics_loss: float
    """Loss in eval mode with statistics recomputed over these images."""
    near_dead_off_loss: float
    """Loss in eval mode with the nearly dead units kept at zero."""
    near_dead: float
    """Number of units, of 512, above zero for less than `NEAR_DEAD` of the images."""
    dead: float
    """Number of units that are zero for all images."""
    variance_lowest: float
    """The lowest running variance."""
    variance_median: float
    largest_output: float
    """Largest output of the normalization in eval mode, in standard deviations. In training it
    cannot exceed √(n - 1), for n images in a batch."""
    beyond_training: float
    """Share of the images with an output beyond √(n - 1) in eval mode."""
    gradient_median: float
    """Median norm of the whole gradient over the epoch's batches."""
    gradient_largest: float
    amplification_median: float
    """Median over the epoch's batches of the norm of the gradient at the input of the
    normalization, divided by that at its output; units that the ReLU blocks are left out."""
    amplification_largest: float
    gradient_follows_amplification: float
    """Spearman's rank correlation of gradient and amplification over the epoch's batches; NaN if
    one is constant."""


@dataclass(frozen=True, kw_only=True)
class ProbedEpoch(Probe):
    """A probe with the network that it measures and the metrics of the epoch.

    All measurements are NaN for an epoch with a non-finite loss, which is the run's last.
    """

    variant: str
    change: str
    """One of `studies.cifar.batchnorm.changes.CHANGES`."""
    repeat: int
    seed: int
    number: int
    """The epoch, 1-based."""
    batch_loss: float
    test_loss: float
    test_accuracy: float
    dataset: str
    data: str
    """The digest of the images, shortened."""
    images: int | None
    """Number of training images; None for all."""
    epochs: int
    batch_size: int
    choices: str
    """The choices of the variant, in the format of `search.study.space.written`."""

    @classmethod
    def not_finite(cls, **which: Any) -> Self:
        figures: dict[str, Any] = dict.fromkeys((*EPOCH_FIGURES, *PROBE_FIGURES), math.nan)
        return cls(**which, **figures)


EPOCH_FIGURES = ("batch_loss", "test_loss", "test_accuracy")
PROBE_FIGURES = tuple(field.name for field in fields(Probe))
TRAINED = ("dataset", "data", "images", "epochs", "batch_size", "choices")
"""The settings that a run depends on, besides its variant, its change and its seed."""
COLUMNS = (
    "variant", "change", "repeat", "seed", "number", *EPOCH_FIGURES, *PROBE_FIGURES, *TRAINED,
)  # fmt: skip
KINDS: dict[str, Callable[[str], Any]] = get_type_hints(ProbedEpoch) | {
    "images": lambda text: int(text) if text else None
}
Run = list[ProbedEpoch]
"""The epochs of one training, in order."""


def append(path: Path, epochs: Sequence[ProbedEpoch]) -> None:
    """Append the epochs to a CSV file, which is created if missing.

    Raises:
        UserError: the file cannot be written.
    """
    lines = io.StringIO()
    table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    try:
        with path.open("ab", buffering=0) as file:
            if file.tell() == 0:
                table.writeheader()
            table.writerows(asdict(epoch) for epoch in epochs)
            before = file.tell()
            try:  # in one write: other processes may append too
                write_all(file.fileno(), lines.getvalue().encode())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; name another file") from error


def read(paths: Sequence[Path], option: str) -> list[Run]:
    """Return the runs in files written by `append`; of a repeated run, the last one.

    Raises:
        UserError: a file cannot be read, or has another format.
    """
    runs: dict[tuple[object, ...], Run] = {}
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    epoch = ProbedEpoch(**{name: kind(row[name]) for name, kind in KINDS.items()})
                    key = (*group_of(epoch), epoch.repeat, epoch.seed)
                    if epoch.number == 1:
                        runs[key] = []
                    runs[key].append(epoch)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{option} {path}: not a file written by --out, or one of an earlier version, "
                f"without the runs' training settings ({type(error).__name__}: {error})"
            ) from error
    return list(runs.values())


def group_of(epoch: ProbedEpoch) -> tuple[object, ...]:
    """Return the key that is the same for all runs that differ only by their seeds."""
    return tuple(getattr(epoch, name) for name in ("variant", "change", *TRAINED))


def collapsed(run: Run) -> list[bool]:
    """Return whether accuracy has collapsed, see `RULE`, for each epoch."""
    found, best = [], 0.0
    for epoch in run:
        found.append(not epoch.test_accuracy > best - COLLAPSE)
        best = max(best, epoch.test_accuracy)
    return found


def tables(runs: Sequence[Run]) -> RenderableType:
    """Return tables of how often accuracy collapses with each change, and of the measurements."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run[0].repeat):
        groups.setdefault(group_of(run[0]), []).append(run)
    return Group(_collapses(groups.values()), RULE, *map(_figures, groups.values()))


def _collapses(groups: Iterable[list[Run]]) -> FittedTable:
    accuracy = "last epoch's accuracy, mean (range)"
    rows = []
    for runs in groups:
        of = runs[0][0]
        marks = [collapsed(run) for run in runs]
        first = [mark.index(True) + 1 for mark in marks if any(mark)]
        rows.append(
            {
                "variant": of.variant,
                "change": of.change,
                "images": "all" if of.images is None else str(of.images),
                "epochs": str(of.epochs),
                "seeds": str(len(runs)),
                "runs that collapse": str(len(first)),
                "first at epoch": ", ".join(map(str, first)),
                "epochs collapsed": f"{sum(map(sum, marks))} of {sum(map(len, marks))}",
                accuracy: _last([run[-1].test_accuracy for run in runs]),
            }
        )
    return FittedTable(
        title="How often accuracy collapses",
        rows=rows,
        texts=["change"],
        foldable=["first at epoch", accuracy],
        droppable=["epochs collapsed", "first at epoch", accuracy],
        box=box.MARKDOWN,
    )


def _last(accuracies: Sequence[float]) -> str:
    """Return the mean and range of the finite accuracies, and the number of the others."""
    known = [value for value in accuracies if not math.isnan(value)]
    lost = len(accuracies) - len(known)
    told = [f"{statistics.fmean(known):.4f} ({min(known):.4f} to {max(known):.4f})"] * bool(known)
    return ", ".join([*told, *[f"{lost} not finite"] * bool(lost)])


def _figures(runs: list[Run]) -> RenderableType:
    """Return the median and range of each measurement over collapsed and over other epochs."""
    of = runs[0][0]
    marked = [pair for run in runs for pair in zip(run, collapsed(run), strict=True)]
    states = {
        f"{'collapsed' if state else 'other'} epochs ({sum(m is state for _, m in marked)})": state
        for state in (False, True)
    }
    images = "all images" if of.images is None else f"the first {of.images} images"
    table = FittedTable(
        title=f"{of.variant}, change: {of.change}",
        rows=[
            {"metric": name.replace("_", " ")}
            | {
                heading: _range([getattr(epoch, name) for epoch, mark in marked if mark is state])
                for heading, state in states.items()
            }
            for name in (*EPOCH_FIGURES, *PROBE_FIGURES)
        ],
        foldable=list(states),
        box=box.MARKDOWN,
    )
    trained = (
        f"Trained on {images} of {of.dataset} (digest {of.data}), {of.epochs} epochs, batches of "
        f"{of.batch_size}: {of.choices}"
    )
    return Group(table, Text(trained))


def _range(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ""
    middle, low, high = statistics.median(known), min(known), max(known)
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"
