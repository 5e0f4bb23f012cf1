"""Re-runs of fixed trials with several seeds, and the spread of their metrics.

Re-runs are read from the database, or from a CSV file by `write`, which contains everything that
`search.analysis.published` needs.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from optuna.trial import FrozenTrial
from scipy.special import stdtrit

from search.database.snapshot import Overview
from search.errors import UserError
from search.files import write_out
from search.study.epoch import Epoch
from search.study.study import Study
from search.study.trial_attributes import REPEAT, SEED, origin_name

Repeats = Mapping[str, Mapping[int, Sequence[Epoch]]]
"""Epochs in order, by name of the variant or trial (`question-3`, `trial 17`) and by repeat."""

REPRODUCED = "-reproduced"
"""Suffix of the name of a study that holds the re-runs of another study's variants."""
RERUN = "-rerun"
"""After a study's name: the name of the study that holds the re-runs of its best trials."""
FIGURES = tuple(field.name for field in fields(Epoch))
TRAINED = ("dataset", "images", "epochs", "batch_size", "select")
"""Fields of the study that affect the metrics of its re-runs."""
COLUMNS = ("name", "repeat", "seed", *FIGURES, *TRAINED)
"""Columns of a file of re-runs. Those of `TRAINED` are the same in every row; `images` is empty for
all images."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Statistics of one metric over several seeds."""

    n: int
    mean: float
    sd: float
    """Sample standard deviation (n - 1); NaN for one run."""
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(
            n=len(values),
            mean=statistics.fmean(values),
            sd=statistics.stdev(values) if len(values) > 1 else math.nan,
            lowest=min(values),
            highest=max(values),
        )

    def __str__(self) -> str:
        """Return for example `0.7071 ± 0.0042 (0.7010 to 0.7100)`; only the mean for one run."""
        if self.n < 2:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} ± {self.sd:.4f} ({self.lowest:.4f} to {self.highest:.4f})"

    def prediction_interval(self, level: float) -> tuple[float, float]:
        """Return the interval that contains one more run with probability `level`.

        The runs are assumed to be normally distributed. For one run, the interval is infinite.
        """
        if self.n < 2:
            return -math.inf, math.inf
        quantile = float(stdtrit(self.n - 1, (1 + level) / 2))
        half = quantile * self.sd * math.sqrt(1 + 1 / self.n)
        return self.mean - half, self.mean + half


def repeats(overview: Overview) -> Repeats:
    """Return the finished re-runs in `overview`, complete and diverged ones."""
    found: dict[str, dict[int, Sequence[Epoch]]] = {}
    for (name, repeat), trial in _reruns(overview).items():
        found.setdefault(name, {})[repeat] = overview.of(trial)
    return found


def _reruns(overview: Overview) -> Mapping[tuple[str, int], FrozenTrial]:
    """Return the trials that are finished re-runs, by name and repeat.

    Trials that another program finished are excluded: they neither completed nor diverged.
    """
    return {
        (name, trial.user_attrs[REPEAT]): trial
        for trial in overview.ended_here
        if (name := origin_name(trial.user_attrs)) and {REPEAT, SEED} <= trial.user_attrs.keys()
    }


def write(overview: Overview, path: Path, study: Study) -> None:
    """Write every epoch of the finished re-runs to a CSV file, for `read`.

    `study` is the study with the settings of the re-runs.

    Raises:
        UserError: the file cannot be written.
    """
    trained = [getattr(study, name) for name in TRAINED]
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(COLUMNS)
    for (name, repeat), trial in _reruns(overview).items():
        for epoch in overview.of(trial):
            metrics = [getattr(epoch, metric) for metric in FIGURES]
            table.writerow([name, repeat, trial.user_attrs[SEED], *metrics, *trained])
    write_out(path, lines.getvalue().encode())


def read(path: Path) -> Repeats:
    """Read a file that `write` wrote.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    found: dict[str, dict[int, list[Epoch]]] = {}
    with _rows_of(path) as rows:
        for row in rows:
            metrics = {name: _parsed(row[name], whole=name == "number") for name in FIGURES}
            runs = found.setdefault(row["name"], {})
            runs.setdefault(int(row["repeat"]), []).append(Epoch(**metrics))
    return found


def trained_as(paths: Sequence[Path], study: Study) -> Study:
    """Return `study` with the settings `TRAINED` of the re-runs in the files.

    A file of an earlier version has no such columns; its runs were trained on all images.

    Raises:
        UserError: the runs have different settings, or another dataset than the study.
    """
    found: dict[tuple[Any, ...], Path] = {}
    for path in paths:
        for trained in _trained(path, study):
            found.setdefault(trained, path)
    (first, path), *others = found.items()
    for other, differing in others:
        apart = [
            f"{name} {_named(theirs)} and {_named(ours)}"
            for name, ours, theirs in zip(TRAINED, first, other, strict=True)
            if ours != theirs
        ]
        raise UserError(
            f"--compare {differing}: its re-runs and those of {path} were trained differently: "
            f"{', '.join(apart)}; compare each file separately"
        )
    if first[0] != study.dataset:
        raise UserError(
            f"--compare {path}: its re-runs have the dataset {first[0]}, but the study has "
            f"{study.dataset}; give the --study of the re-runs"
        )
    return replace(study, **dict(zip(TRAINED, first, strict=True)))


def _trained(path: Path, study: Study) -> Iterable[tuple[Any, ...]]:
    """Return the distinct values of `TRAINED` in a file."""
    with _rows_of(path) as rows:
        if not rows or TRAINED[0] not in rows[0]:
            epochs = max((int(row["number"]) for row in rows), default=study.epochs)
            return [(study.dataset, None, epochs, study.batch_size, "test")]
        texts = dict.fromkeys(tuple(row[name] for name in TRAINED) for row in rows)
        return [
            (dataset, int(images) if images else None, int(epochs), int(batch_size), select)
            for dataset, images, epochs, batch_size, select in texts
        ]


@contextmanager
def _rows_of(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file that `write` wrote; errors in the body are errors of the file.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            yield list(csv.DictReader(lines))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--compare {path}: not a file written by --out ({type(error).__name__}: {error})"
        ) from error


def _named(value: object) -> str:
    return "all" if value is None else str(value)


def merged(parts: Sequence[Repeats]) -> Repeats:
    """Merge `parts`; for the same name and repeat, the last one counts."""
    found: dict[str, dict[int, Sequence[Epoch]]] = {}
    for part in parts:
        for name, runs in part.items():
            found.setdefault(name, {}).update(runs)
    return found


def _parsed(text: str, *, whole: bool) -> Any:
    if text == "":
        return None
    return int(text) if whole else float(text)
