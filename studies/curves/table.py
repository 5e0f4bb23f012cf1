"""The recorded learning curves as a file: one line for each finished training.

    python -m studies.curves.table --storage sqlite:///search.db

writes `cifar10.jsonl` from the study that `cifar10.py` recorded. Re-runs with other seeds are
curves of the trial that they are re-runs of.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from search.analysis.answer import reruns_of
from search.database.database import Database
from search.database.snapshot import Overview
from search.study.metrics import Epoch
from search.study.space import Value

FILE = Path(__file__).with_name("cifar10.jsonl")
DIGITS = 5
"""Significant digits of the stored values; accuracies on 4,000 images have four."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training from its first epoch to its last; of one that diverged, to the epoch before."""

    trial: int
    repeat: int | None
    """The number of a re-run with another seed; None for the trial itself."""
    choices: Mapping[str, Value]
    seconds: tuple[float, ...]
    """Wall time of each epoch."""
    metrics: Mapping[str, tuple[float, ...]]
    """The values of each metric, epoch by epoch. A metric that only the first epochs have is
    shorter."""

    def __len__(self) -> int:
        return len(self.seconds)

    @classmethod
    def of(
        cls,
        trial: int,
        choices: Mapping[str, Value],
        epochs: Iterable[Epoch],
        *,
        repeat: int | None = None,
    ) -> "Curve":
        ran = list(epochs)
        names = ran[0].metrics if ran else ()
        return cls(
            trial=trial,
            repeat=repeat,
            choices=choices,
            seconds=tuple(epoch.seconds for epoch in ran),
            metrics={
                name: tuple(epoch.metrics[name] for epoch in ran if name in epoch.metrics)
                for name in names
            },
        )


def recorded(storage: str, name: str) -> Iterator[Curve]:
    """Yield the curves of the finished trials of the study called `name`, each followed by those of
    its re-runs."""
    with closing(Database(storage)) as database:
        overview = Overview.of_study(database, name)
        reruns = reruns_of(database, overview.study_key)
    for trial in overview.finished:
        yield Curve.of(trial.number, trial.params, overview.of(trial))
        for repeat, epochs in sorted(reruns.get(f"trial {trial.number}", {}).items()):
            yield Curve.of(trial.number, trial.params, epochs, repeat=repeat)


def write(path: Path, curves: Iterable[Curve]) -> None:
    with path.open("w") as file:
        for curve in curves:
            metrics = {name: _rounded(values) for name, values in curve.metrics.items()}
            line = {
                "trial": curve.trial,
                "repeat": curve.repeat,
                "choices": dict(curve.choices),
                "seconds": _rounded(curve.seconds),
                "metrics": metrics,
            }
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read(path: Path = FILE) -> list[Curve]:
    with path.open() as file:
        return [_curve(json.loads(line)) for line in file]


def _curve(line: dict[str, object]) -> Curve:
    metrics, choices, seconds = line["metrics"], line["choices"], line["seconds"]
    assert isinstance(metrics, dict)
    assert isinstance(choices, dict)
    assert isinstance(seconds, list)
    return Curve(
        trial=int(str(line["trial"])),
        repeat=None if line["repeat"] is None else int(str(line["repeat"])),
        choices=choices,
        seconds=tuple(seconds),
        metrics={name: tuple(values) for name, values in metrics.items()},
    )


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.curves.table", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--storage", default="sqlite:///search.db", metavar="URL")
    parser.add_argument("--name", default="curves", help="of the study (default: curves)")
    parser.add_argument("--out", type=Path, default=FILE, help="default: beside this module")
    options = parser.parse_args()
    write(options.out, recorded(options.storage, options.name))


if __name__ == "__main__":
    main()
