"""Accuracy and speed in bfloat16 beside float32: `python -m tests.benchmarks.precision`.

The six variants are trained in both precisions with the same seeds by `search.reproduce`, in a
folder beside the checkout: the same command resumes. Printed are the mean difference of the final
test accuracy over the pairs with its 95 % interval, for each variant and for all, and the ratio of
the seconds for each epoch. It needs CUDA, or a processor with AMX or AVX512-BF16.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import ttest_1samp

from search.analysis.rerun_metrics import Repeats, read
from studies.cifar import VARIANTS

PRECISIONS = ("float32", "bfloat16")
LIMIT = 0.005
"""The largest difference in accuracy that is accepted, within the interval."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("../precision"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--images", default="20000")
    parser.add_argument("--epochs", default="5")
    parser.add_argument("--repeats", default="8")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    in_float32, in_bfloat16 = (_trained(options, precision) for precision in PRECISIONS)
    everything: list[float] = []
    for variant in VARIANTS:
        ours, theirs = _finals(in_bfloat16, variant), _finals(in_float32, variant)
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        everything += differences
        _tell(variant, differences, f"{statistics.fmean(theirs):.4f} in float32")
    inside = _tell("all", everything, f"{len(everything)} pairs")
    before, now = (_seconds(runs) for runs in (in_float32, in_bfloat16))
    print(f"seconds for each epoch: {before:.1f} and {now:.1f}, {before / now:.2f} times")
    print(f"the interval lies {'' if inside else 'not '}within ±{100 * LIMIT:g} points")


def _trained(options: argparse.Namespace, precision: str) -> Repeats:
    file = options.folder / f"{precision}.csv"
    command = [
        *(sys.executable, "-m", "search.reproduce", "--study", "cifar", "--precision", precision),
        *("--images", options.images, "--epochs", options.epochs, "--repeats", options.repeats),
        *("--data", options.data, "--artifacts", options.folder / "artifacts", "--out", file),
        *("--storage", f"sqlite:///{(options.folder / precision).absolute()}.db"),
    ]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return read(file)


def _finals(runs: Repeats, variant: str) -> list[float]:
    return [epochs[-1].metrics["test_accuracy"] for _, epochs in sorted(runs[variant].items())]


def _seconds(runs: Repeats) -> float:
    return statistics.median(
        epoch.seconds
        for repeats in runs.values()
        for epochs in repeats.values()
        for epoch in epochs
    )


def _tell(name: str, differences: Sequence[float], beside: str) -> bool:
    """Print the mean difference; return whether its interval lies within the limit."""
    interval = ttest_1samp(differences, 0).confidence_interval()
    low, high = float(interval.low), float(interval.high)
    mean = statistics.fmean(differences)
    print(f"{name}: {mean:+.4f} ({low:+.4f} to {high:+.4f}), {beside}")
    return max(-low, high) < LIMIT


if __name__ == "__main__":
    main()
