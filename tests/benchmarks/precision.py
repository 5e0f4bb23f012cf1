"""Accuracy and speed in bfloat16 beside float32: `python -m tests.benchmarks.precision`.

The six variants are trained in both precisions with the same seeds, each in one thread, as many at
once as there are cores. Every run is appended to `precision.csv` beside this file, so that the same
command resumes, and with more `--repeats` goes on. Printed are the mean difference of the final
test accuracy over the pairs with its 95 % interval, for each variant and for all, and the ratio of
the seconds of training. It needs a processor with AMX or AVX512-BF16.
"""

import argparse
import csv
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
from scipy.stats import ttest_1samp

from search.vision.image_classification import Precision
from search.vision.images import load_dataset
from search.vision.precision import choose
from search.vision.session import Splits
from search.worker import device
from studies.cifar import VARIANTS
from tests.support.images import run_of, session_of

LIMIT = 0.005
"""The largest difference in accuracy that is accepted, within the interval."""


@dataclass(frozen=True, order=True)
class Task:
    """A training; tasks are done in this order, so that pairs and seeds are complete early."""

    repeat: int
    variant: str
    precision: Precision
    images: int
    epochs: int


Runs = dict[Task, tuple[float, float]]
"""The final test accuracy and the seconds of training, by task."""


def main() -> None:
    options = _options()
    tasks = [
        Task(repeat, variant, precision, options.images, options.epochs)
        for repeat in range(options.repeats)
        for variant in VARIANTS
        for precision in ("float32", "bfloat16")
    ]
    done = _read(options.out)
    missing = [(task, options.data) for task in tasks if task not in done]
    if missing:
        choose(torch.device("cpu"), "bfloat16")
        load_dataset("cifar10", options.data)  # downloaded before the processes need it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the pool too
    with (
        multiprocessing.get_context("spawn").Pool(options.workers) as pool,
        options.out.open("a", newline="") as file,
    ):
        for task, accuracy, seconds in pool.imap_unordered(_train, missing):
            csv.writer(file).writerow([*astuple(task), accuracy, f"{seconds:.1f}"])
            file.flush()
    runs = _read(options.out)
    _tell({task: runs[task] for task in tasks})


def _train(job: tuple[Task, Path]) -> tuple[Task, float, float]:
    task, data = job
    device.prepare("cpu", 1)
    dataset = load_dataset("cifar10", data)
    splits = Splits(
        train=dataset.train.between(0, task.images),
        # With a validation set, the test images are used only after the last epoch.
        validation=dataset.train.between(task.images, task.images + 100),
        test=dataset.test,
        n_classes=10,
    )
    session = session_of(splits, precision=task.precision)
    training = session.start(run_of(VARIANTS[task.variant], seed=task.repeat, epochs=task.epochs))
    start = time.perf_counter()
    *_, last = training.fit()
    return task, last["test_accuracy"], time.perf_counter() - start


def _read(file: Path) -> Runs:
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        return {
            Task(
                int(repeat),
                variant,
                "float32" if precision == "float32" else "bfloat16",
                int(images),
                int(epochs),
            ): (float(accuracy), float(seconds))
            for repeat, variant, precision, images, epochs, accuracy, seconds in csv.reader(lines)
        }


def _tell(runs: Runs) -> None:
    everything: list[float] = []
    ratios: list[float] = []
    for variant in VARIANTS:
        pairs = [
            (runs[task], runs[replace(task, precision="float32")])
            for task in runs
            if (task.variant, task.precision) == (variant, "bfloat16")
        ]
        differences = [ours - theirs for (ours, _), (theirs, _) in pairs]
        everything += differences
        ratios += [theirs / ours for (_, ours), (_, theirs) in pairs]
        in_float32 = statistics.fmean(accuracy for _, (accuracy, _) in pairs)
        _interval(variant, differences, f"{in_float32:.4f} in float32, {len(pairs)} pairs")
    inside = _interval("all", everything, f"{len(everything)} pairs")
    print(f"float32 takes {statistics.median(ratios):.2f} times the seconds")
    print(f"the interval lies {'' if inside else 'not '}within ±{100 * LIMIT:g} points")


def _interval(name: str, differences: Sequence[float], beside: str) -> bool:
    """Print the mean difference; return whether its interval lies within the limit."""
    interval = ttest_1samp(differences, 0).confidence_interval()
    low, high = float(interval.low), float(interval.high)
    mean = statistics.fmean(differences)
    print(f"{name}: {mean:+.4f} ({low:+.4f} to {high:+.4f}), {beside}")
    return max(-low, high) < LIMIT


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    return parser.parse_args()


if __name__ == "__main__":
    main()
