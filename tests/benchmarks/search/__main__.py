"""How soon a search finds a good trial, beside other tools: `python -m tests.benchmarks.search`.

Four searches of the course's network on the first images of CIFAR-10, each for the same wall-clock
time, with the same ranges, two workers of one thread each, and none of the report's variants:

- `ours`: `python -m search.run`, as it is shipped;
- `optuna`: a script as Optuna's documentation teaches it: a student's training loop,
  `study.optimize` in two processes, TPE and the median pruner;
- `ray`: Ray Tune with OptunaSearch and ASHA, as in its tutorial on CIFAR-10;
- `random`: the script of `optuna` with random choices, without pruning.

The time begins with the command, so that it includes the start. At each moment a search has an
incumbent: the trial that the tool would name as the best. Ours and Optuna's are the best completed
trial, Ray's is the trial with the best last report. Every incumbent is trained again for all epochs
with fresh seeds, the same for all tools, by one and the same training; what is compared is the
mean, so that luck does not count. Both seconds and epochs are printed, so that the speed of
training is not taken for that of the search. How soon an accuracy is reached is told for each
search and, first, for the mean over a tool's searches, which one lucky incumbent of a few minutes
decides less; a search without an incumbent counts as 0. Everything is appended to `--out`: the
same command resumes, and with more `--repeats` goes on.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from search.vision.images import load_dataset
from tests.benchmarks.search import optuna_script
from tests.benchmarks.search.fresh_seed import Key, train
from tests.support.commands import fresh_environment

FILE = Path(__file__).parent / "search.jsonl"
GRACE_SECONDS = 5.0
"""Between the request to stop and the kill."""
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""The moments that are printed, as shares of the time."""


@dataclass(frozen=True)
class Mark:
    """A new incumbent."""

    seconds: float
    """Since the command was started."""
    epochs: int
    """Trained by all trials until then."""
    accuracy: float
    """As the search measured it."""
    choices: dict[str, Any]


@dataclass(frozen=True)
class Search:
    tool: str
    repeat: int
    seconds: float
    """The time that it had."""
    images: int
    epochs: int
    """Of a complete trial."""
    trained: int
    """The number of epochs of all trials."""
    marks: list[Mark]


class Results:
    """What `--out` holds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.searches: list[Search] = []
        self.trained: dict[Key, float] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            found = json.loads(line)
            if "tool" in found:
                marks = [Mark(**mark) for mark in found.pop("marks")]
                self.searches.append(Search(**found, marks=marks))
            else:
                key = found["choices"], found["images"], found["epochs"], found["seed"]
                self.trained[key] = found["accuracy"]

    def add_search(self, search: Search) -> None:
        self.searches.append(search)
        self._append(asdict(search))

    def add_training(self, key: Key, accuracy: float) -> None:
        self.trained[key] = accuracy
        names = ("choices", "images", "epochs", "seed")
        self._append({**dict(zip(names, key, strict=True)), "accuracy": accuracy})

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    options = _options()
    results = Results(options.out)
    load_dataset("cifar10", options.data)  # downloaded before anything is measured
    done = {(one.tool, one.repeat) for one in _of(results, options)}
    for repeat in range(options.repeats):
        for tool, run in TOOLS.items():
            if (tool, repeat) not in done:
                with tempfile.TemporaryDirectory() as folder:
                    results.add_search(run(repeat, Path(folder), options))
    searches = [one for one in _of(results, options) if one.repeat < options.repeats]
    _confirm(searches, results, options)
    _tell(searches, results, options)


def _of(results: Results, options: argparse.Namespace) -> list[Search]:
    own = (options.seconds, options.images, options.epochs)
    return [one for one in results.searches if (one.seconds, one.images, one.epochs) == own]


def _ours(repeat: int, folder: Path, options: argparse.Namespace) -> Search:
    url = f"sqlite:///{folder}/search.db"
    command = [
        *("-m", "search.run", "--study", "cifar", "--no-variants", "--no-confirm"),
        *("--trials", "1000000", "--workers", "2", "--threads", "1", "--seed", str(repeat)),
        *("--images", str(options.images), "--epochs", str(options.epochs)),
        *("--data", str(options.data), "--storage", url, "--artifacts", f"{folder}/artifacts"),
    ]
    start = _run([command], options.seconds)
    return _stored("ours", url, "cifar", start, repeat, options)


def _optuna(repeat: int, folder: Path, options: argparse.Namespace) -> Search:
    return _plain("optuna", (), repeat, folder, options)


def _random(repeat: int, folder: Path, options: argparse.Namespace) -> Search:
    return _plain("random", ("--random",), repeat, folder, options)


def _plain(
    tool: str, more: Sequence[str], repeat: int, folder: Path, options: argparse.Namespace
) -> Search:
    url = f"sqlite:///{folder}/plain.db"
    # Before the processes, as the documentation says: they fail if they make the tables at once.
    optuna.create_study(study_name=optuna_script.STUDY, storage=url, direction="maximize")
    commands = [
        [
            *("-m", optuna_script.__name__, "--storage", url, "--seed", str(2 * repeat + worker)),
            *("--data", str(options.data), "--images", str(options.images)),
            *("--epochs", str(options.epochs), *more),
        ]
        for worker in (0, 1)
    ]
    start = _run(commands, options.seconds)
    return _stored(tool, url, optuna_script.STUDY, start, repeat, options)


def _ray(repeat: int, folder: Path, options: argparse.Namespace) -> Search:
    file = folder / "reports.jsonl"
    command = [
        *("-m", "tests.benchmarks.search.ray_script", "--reports", str(file)),
        *("--data", str(options.data), "--images", str(options.images), "--workers", "2"),
        *("--epochs", str(options.epochs), "--seed", str(repeat)),
    ]
    start = _run([command], options.seconds)
    last: dict[str, tuple[float, dict[str, Any]]] = {}
    marks: list[Mark] = []
    reports = [json.loads(line) for line in file.read_text().splitlines()]
    for epochs, report in enumerate(reports, start=1):
        last[report["trial"]] = report["accuracy"], report["choices"]
        accuracy, choices = max(last.values(), key=lambda found: found[0])
        if not marks or marks[-1].choices != choices:
            marks.append(Mark(report["at"] - start, epochs, accuracy, choices))
    return _search("ray", repeat, len(reports), marks, options)


TOOLS: Mapping[str, Callable[[int, Path, argparse.Namespace], Search]] = {
    "ours": _ours,
    "optuna": _optuna,
    "ray": _ray,
    "random": _random,
}


def _run(commands: Sequence[Sequence[str]], seconds: float) -> float:
    """Run the commands side by side for so long, kill them and all that they started, and return
    when they were started."""
    environment = fresh_environment() | {
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = time.time()
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", *command],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for command in commands
    ]
    while time.time() < start + seconds:
        time.sleep(1)
        for process, command in zip(processes, commands, strict=True):
            if process.poll() is not None:
                errors = process.communicate()[1].decode()
                raise SystemExit(f"{' '.join(command)} ended early: {errors}")
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    for process in processes:
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return start


def _stored(
    tool: str, url: str, name: str, start: float, repeat: int, options: argparse.Namespace
) -> Search:
    """Read a search from Optuna's tables, which ours and the script of Optuna share."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = optuna.load_study(study_name=name, storage=url).get_trials()
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        reported = connection.exec_driver_sql(
            "SELECT number, step FROM trial_intermediate_values JOIN trials USING (trial_id) "
            "ORDER BY trial_intermediate_value_id"
        ).all()
    engine.dispose()
    places = {(number, step): place for place, (number, step) in enumerate(reported, start=1)}
    ended = [t for t in trials if t.state.name == "COMPLETE" and t.datetime_complete is not None]
    ended.sort(key=lambda trial: trial.datetime_complete or 0)
    marks: list[Mark] = []
    for trial in ended:
        assert trial.datetime_complete is not None
        assert trial.value is not None
        seconds = trial.datetime_complete.timestamp() - start
        if seconds <= options.seconds and (not marks or trial.value > marks[-1].accuracy):
            epochs = places[trial.number, options.epochs]
            marks.append(Mark(seconds, epochs, trial.value, trial.params))
    return _search(tool, repeat, len(reported), marks, options)


def _search(
    tool: str, repeat: int, trained: int, marks: list[Mark], options: argparse.Namespace
) -> Search:
    return Search(
        tool, repeat, options.seconds, options.images, options.epochs, trained,
        [mark for mark in marks if mark.seconds <= options.seconds],
    )  # fmt: skip


def _confirm(searches: Iterable[Search], results: Results, options: argparse.Namespace) -> None:
    """Train every incumbent with each seed."""
    wanted = dict.fromkeys(
        key for one in searches for mark in one.marks for key in _keys(mark, options)
    )
    missing = [(key, options.data) for key in wanted if key not in results.trained]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for key, accuracy in pool.imap_unordered(train, missing):
            results.add_training(key, accuracy)


def _keys(mark: Mark, options: argparse.Namespace) -> Iterator[Key]:
    choices = json.dumps(mark.choices, sort_keys=True)
    for seed in range(options.seeds):
        yield choices, options.images, options.epochs, seed


def _tell(searches: Sequence[Search], results: Results, options: argparse.Namespace) -> None:
    def true(mark: Mark) -> float:
        return statistics.fmean(results.trained[key] for key in _keys(mark, options))

    def mean_after(seconds: float, runs: Sequence[Search]) -> float:
        return statistics.fmean(
            true(mark) if (mark := _after(seconds, one)) else 0.0 for one in runs
        )

    by_tool = {tool: [one for one in searches if one.tool == tool] for tool in TOOLS}
    print(
        f"{options.images} images, {options.epochs} epochs, {options.seconds:g} s with 2 workers, "
        f"{options.repeats} searches of each; incumbents over {options.seeds} fresh seeds"
    )
    heads = "  ".join(f"after {share * options.seconds:6.0f} s" for share in SHARES)
    print(f"tool    epochs  {heads}   mean of the incumbent (lowest to highest at the end)")
    for tool, runs in by_tool.items():
        trained = statistics.median(one.trained for one in runs)
        cells = [f"{mean_after(share * options.seconds, runs):14.4f}" for share in SHARES]
        ends = [true(one.marks[-1]) if one.marks else 0.0 for one in runs]
        print(
            f"{tool:6}  {trained:6.0f}  {'  '.join(cells)}   ({min(ends):.4f} to {max(ends):.4f})"
        )
    target = mean_after(options.seconds, by_tool["random"])
    print(f"\nuntil the incumbent's mean is {target:.4f}, with which random search ends:")
    print("tool    by the mean  seconds: median (each)                 epochs: median (each)")
    for tool, runs in by_tool.items():
        moments = sorted(mark.seconds for one in runs for mark in one.marks)
        average = next((at for at in moments if mean_after(at, runs) >= target), math.inf)
        reached = [
            next(((m.seconds, m.epochs) for m in one.marks if true(m) >= target), (math.inf,) * 2)
            for one in runs
        ]
        texts = [
            f"{statistics.median(values):6.0f} ({', '.join(f'{v:.0f}' for v in sorted(values))})"
            for values in zip(*reached, strict=True)
        ]
        print(f"{tool:6}  {average:9.0f} s  {texts[0]:37}  {texts[1]}")


def _after(seconds: float, search: Search) -> Mark | None:
    """Return the incumbent after so many seconds."""
    there = [mark for mark in search.marks if mark.seconds <= seconds]
    return there[-1] if there else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data/")
    parser.add_argument("--out", type=Path, default=FILE, help="default: beside this file")
    parser.add_argument("--images", type=int, default=4000, help="default: 4000")
    parser.add_argument("--epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--seconds", type=float, default=720, help="default: 720")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--seeds", type=int, default=3, help="of an incumbent (default: 3)")
    found = parser.parse_args()
    found.data = found.data.resolve()
    return found


if __name__ == "__main__":
    main()
