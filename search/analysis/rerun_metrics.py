"""Re-runs of fixed trials with several seeds, and the spread of their metrics.

Re-runs are read from the database, or from a CSV file by `write`, which contains everything that
`search.analysis.published` needs.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from optuna.trial import FrozenTrial
from scipy.special import stdtrit

from search.database.snapshot import Overview
from search.errors import UserError
from search.files import write_out
from search.study.metrics import Epoch, number
from search.study.study import Study
from search.study.trial_attributes import REPEAT, SEED, origin_name

Repeats = Mapping[str, Mapping[int, Sequence[Epoch]]]
"""Epochs in order, by name of the variant or trial (`question-3`, `trial 17`) and by repeat."""

REPRODUCED = "-reproduced"
"""Suffix of the name of a study that holds the re-runs of another study's variants."""
RERUN = "-rerun"
"""After a study's name: the name of the study that holds the re-runs of its best trials."""
COLUMNS = ("name", "repeat", "seed", "number", "seconds", "settings")
"""The first columns of a file of re-runs; the metrics follow. `settings` is the same JSON object in
every row, see `_settings`."""


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
            return number(self.mean)
        sd, lowest, highest = (
            number(value, beside=self.mean) for value in (self.sd, self.lowest, self.highest)
        )
        return f"{number(self.mean)} ± {sd} ({lowest} to {highest})"

    def interval_of_mean(self, level: float) -> tuple[float, float]:
        """Return the confidence interval of the mean at `level`, by Student's t distribution.

        For one run, the interval is infinite.
        """
        if self.n < 2:
            return -math.inf, math.inf
        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half

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
    settings = json.dumps(_settings(study))
    reruns = _reruns(overview).items()
    metrics = dict.fromkeys(
        metric for _, trial in reruns for epoch in overview.of(trial) for metric in epoch.metrics
    )
    lines = io.StringIO()
    table = csv.DictWriter(lines, [*COLUMNS, *metrics], lineterminator="\n")
    table.writeheader()
    for (name, repeat), trial in reruns:
        which = {"name": name, "repeat": repeat, "seed": trial.user_attrs[SEED]}
        for epoch in overview.of(trial):
            of = {"number": epoch.number, "seconds": epoch.seconds, "settings": settings}
            table.writerow(which | of | dict(epoch.metrics))
    write_out(path, lines.getvalue().encode())


def read(path: Path) -> Repeats:
    """Read a file that `write` wrote.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    found: dict[str, dict[int, list[Epoch]]] = {}
    with _rows_of(path) as rows:
        for row in rows:
            metrics = {m: float(text) for m, text in row.items() if text and m not in COLUMNS}
            runs = found.setdefault(row["name"], {})
            runs.setdefault(int(row["repeat"]), []).append(
                Epoch(number=int(row["number"]), metrics=metrics, seconds=float(row["seconds"]))
            )
    return found


def trained_as(paths: Sequence[Path], study: Study) -> Study:
    """Return `study` with the settings of the re-runs in the files.

    Raises:
        UserError: the runs have different settings, or another dataset than the study.
    """
    found: dict[str, tuple[dict[str, object], Path]] = {}
    for path in paths:
        with _rows_of(path) as rows:
            for row in rows:
                if (text := row["settings"]) not in found:
                    found[text] = dict(json.loads(text)), path
    if not found:
        return study
    (first, path), *others = found.values()
    for other, differing in others:
        apart = [
            f"{name} {_named(other.get(name))} and {_named(first.get(name))}"
            for name in {**first, **other}
            if other.get(name) != first.get(name)
        ]
        if apart:
            raise UserError(
                f"--compare {differing}: its re-runs and those of {path} were trained differently: "
                f"{', '.join(apart)}; compare each file separately"
            )
    own = _settings(study)
    for name, value in first.items():
        if (
            isinstance(value, str)
            and name not in ("metric", "precision")
            and value != own.get(name)
        ):
            raise UserError(
                f"--compare {path}: its re-runs have the {name} {value}, but the study has "
                f"{own.get(name)}; give the --study of the re-runs"
            )
    return study.defined({**study.definition(None), **first})


def _settings(study: Study) -> Mapping[str, object]:
    """Return the settings that affect the metrics of a study's re-runs."""
    of_trainer, fields = study.trainer.settings(), vars(study.trainer)
    own = {name: value for name, value in of_trainer.items() if value == fields[name]}
    if fields.get("precision") == "bfloat16":
        own["precision"] = "bfloat16"
    return own | {"epochs": study.epochs, "metric": study.metric}


@contextmanager
def _rows_of(path: Path) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of a file that `write` wrote; errors in the body are errors of the file.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            yield list(csv.DictReader(lines))
    except UserError:
        raise
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
