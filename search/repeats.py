"""The same fixed trials trained with several seeds: what their figures spread over.

Read from the database, or from a CSV file that `write` made, which holds everything that the
comparisons of `search.comparison` need. A mean has its spread and its count beside it.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from scipy.special import stdtrit

from search.epoch import Epoch
from search.errors import UserError
from search.files import write_out
from search.overview import Overview
from search.trials import FINISHED, REPEAT, SEED, origin_name

Repeats = Mapping[str, Mapping[int, Sequence[Epoch]]]
"""By the name of what was trained (`question-3`, `trial 17`) and by repeat: the epochs in order."""

REPRODUCED = "-reproduced"
"""After a study's name: the name of the study that holds the re-runs of its variants."""
RERUN = "-rerun"
"""After a study's name: the name of the study that holds the re-runs of its best trials."""
FIGURES = tuple(field.name for field in fields(Epoch))
COLUMNS = ("name", "repeat", "seed", *FIGURES)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one figure over several seeds."""

    n: int
    mean: float
    sd: float
    """Standard deviation of a single run, with n - 1; NaN for one run."""
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
        """Return such as `0.7071 ± 0.0042 (0.7010 to 0.7100)`; the mean alone for one run."""
        if self.n < 2:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} ± {self.sd:.4f} ({self.lowest:.4f} to {self.highest:.4f})"

    def prediction_interval(self, level: float) -> tuple[float, float]:
        """Return where one more run lies with probability `level`, if runs are normal.

        Infinite for one run. Source: any text on prediction intervals of a normal sample.
        """
        if self.n < 2:
            return -math.inf, math.inf
        quantile = float(stdtrit(self.n - 1, (1 + level) / 2))
        half = quantile * self.sd * math.sqrt(1 + 1 / self.n)
        return self.mean - half, self.mean + half


def repeats(overview: Overview) -> Repeats:
    """Return the re-runs in `overview` that ended, complete ones and diverged ones."""
    found: dict[str, dict[int, Sequence[Epoch]]] = {}
    for trial in overview.trials:
        attributes = trial.user_attrs
        if REPEAT in attributes and trial.state in FINISHED:
            name = str(origin_name(attributes))
            found.setdefault(name, {})[attributes[REPEAT]] = overview.of(trial)
    return found


def write(overview: Overview, path: Path) -> None:
    """Write every epoch of the re-runs that ended to a CSV file, for `read`.

    Raises:
        UserError: the file cannot be written.
    """
    seeds = {
        (origin_name(trial.user_attrs), trial.user_attrs[REPEAT]): trial.user_attrs[SEED]
        for trial in overview.trials
        if REPEAT in trial.user_attrs
    }
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(COLUMNS)
    for name, runs in repeats(overview).items():
        for repeat, epochs in sorted(runs.items()):
            for epoch in epochs:
                figures = [getattr(epoch, figure) for figure in FIGURES]
                table.writerow([name, repeat, seeds[name, repeat], *figures])
    write_out(path, lines.getvalue().encode())


def read(path: Path) -> Repeats:
    """Return what `write` wrote.

    Raises:
        UserError: the file cannot be read, or is not of that form.
    """
    found: dict[str, dict[int, list[Epoch]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                figures = {name: _parsed(row[name], whole=name == "number") for name in FIGURES}
                runs = found.setdefault(row["name"], {})
                runs.setdefault(int(row["repeat"]), []).append(Epoch(**figures))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--compare {path}: no file that --out wrote ({type(error).__name__}: {error})"
        ) from error
    return found


def merged(parts: Sequence[Repeats]) -> Repeats:
    """Return all runs of `parts`; of the same name and repeat the last one."""
    found: dict[str, dict[int, Sequence[Epoch]]] = {}
    for part in parts:
        for name, runs in part.items():
            found.setdefault(name, {}).update(runs)
    return found


def _parsed(text: str, *, whole: bool) -> Any:
    if text == "":
        return None
    return int(text) if whole else float(text)
