"""How early the end of a training shows: `python -m studies.curves.ranks`.

Prints, for each table of recorded curves, Spearman's rank correlation of the test accuracy after
each epoch, and of the mean training loss over it, with the last test accuracy; and between two
tables that of the last accuracies of the same trials. `--every 5` prints the numbers of every fifth
trial at random by its last test accuracy instead, for re-runs over the whole range.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from scipy.stats import spearmanr

from studies.curves.cifar10 import AT_RANDOM
from studies.curves.table import FILE, Curve, read

ACCURACY, LOSS = "test_accuracy", "batch_loss"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.curves.ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", type=Path, nargs="+", default=[FILE], help="default: CIFAR-10's")
    parser.add_argument("--every", type=int, metavar="N", help="print every Nth trial at random")
    options = parser.parse_args()
    tables = {path.stem: _complete(read(path)) for path in options.table}
    if options.every is not None:
        for curves in tables.values():
            at_random = [curve for number, curve in curves.items() if number < AT_RANDOM]
            at_random.sort(key=lambda curve: (-_last(curve), curve.trial))
            print(*(curve.trial for curve in at_random[:: options.every]))
        return
    for name, curves in tables.items():
        epochs = max(map(len, curves.values()))
        print(f"{name}: {len(curves)} complete trials\nepoch  accuracy  loss")
        for epoch in range(epochs):
            found = (
                _correlation([sign * curve.metrics[metric][epoch] for curve in curves.values()],
                             [_last(curve) for curve in curves.values()])
                for metric, sign in ((ACCURACY, 1), (LOSS, -1))
            )  # fmt: skip
            print(f"{epoch + 1:5}  {next(found):8.2f}  {next(found):4.2f}")
    for (one, first), (other, second) in combinations(tables.items(), 2):
        both = sorted(first.keys() & second.keys())
        if both and all(first[n].choices == second[n].choices for n in both):
            ends = ([_last(table[n]) for n in both] for table in (first, second))
            print(f"{one} and {other}: {_correlation(*ends):.2f} over {len(both)} trials")


def _complete(curves: Sequence[Curve]) -> dict[int, Curve]:
    """Return the curves that have all epochs by trial, without those of re-runs."""
    epochs = max(map(len, curves))
    return {c.trial: c for c in curves if c.repeat is None and len(c) == epochs}


def _last(curve: Curve) -> float:
    return curve.metrics[ACCURACY][-1]


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    return float(spearmanr(first, second).statistic)


if __name__ == "__main__":
    main()
