"""The best trials trained again with fresh seeds: what they really reach, and which is the best.

The accuracy that a trial won a search with is the highest of many, and too high. Re-runs are paired
by their seed: what one seed gives to all of them is no difference between them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from search.analysis.seeds import Repeats, Spread

FEWEST = 3
"""Seeds before a trial may be left out."""
LEAVE_OUT = 0.01
TIE = 0.05
RULE = (
    "Rule: trials are compared with the one of the highest mean by a one-sided t test over the "
    f"paired seeds. After {FEWEST} seeds or more, one that is worse at the level {LEAVE_OUT} is "
    f"left out of further ones; at the end, one that is not worse at the level {TIE} is a tie. A "
    "run that diverged counts as accuracy 0."
)

Accuracies = Mapping[int, Mapping[int, float]]
"""By the number of the trial and by repeat: the test accuracy after the last epoch."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One of the best trials after its re-runs."""

    trial: int
    honest: Spread
    """Of the test accuracy, over the seeds."""
    behind: float
    """Mean of the paired differences from the best one's accuracy; 0 for the best itself, NaN if
    the two have no seed in common."""
    p: float
    """Of the t test; NaN where it cannot be made."""
    verdict: str
    """`best`, `worse` or `worse, left out`; `tie` for the best and those that are not worse than
    it; `one seed` where nothing can be said."""


def accuracies(runs: Repeats, numbers: Sequence[int], epochs: int) -> Accuracies:
    """Return the re-runs' accuracies; 0 for one that diverged before its last epoch, `epochs`."""
    return {
        number: {
            repeat: _last(found[-1].test_accuracy) if len(found) == epochs else 0.0
            for repeat, found in sorted(runs.get(f"trial {number}", {}).items())
        }
        for number in numbers
    }


def still_in(found: Accuracies, repeat: int) -> list[int]:
    """Return the trials that `RULE` has not left out before re-run `repeat`.

    It follows from the re-runs before that one alone, so that every process decides alike.
    """
    left = list(found)
    for seen in range(FEWEST, repeat + 1):
        before = {number: _until(found[number], seen) for number in left}
        best = _best(before)
        left = [n for n in left if n == best or not _p(before[n], before[best]) < LEAVE_OUT]
    return left


def standings(found: Accuracies) -> list[Standing]:
    """Return the trials that have a re-run, best first.

    Of those that `RULE` has not left out, the best one has the highest mean over the seeds that all
    of them have; over its own seeds, if they have none in common.
    """
    found = {number: of for number, of in found.items() if of}
    if not found:
        return []
    rounds, most = 1 + max(map(max, found.values())), max(map(len, found.values()))
    left_out = {n for n, of in found.items() if len(of) < most} - set(still_in(found, rounds))
    left = {number: of for number, of in found.items() if number not in left_out}
    common = set.intersection(*map(set, left.values()))
    best = _best({n: {k: of[k] for k in common or of} for n, of in left.items()})
    made = [
        _standing(number, of, found[best], is_best=number == best, is_out=number in left_out)
        for number, of in found.items()
    ]
    if any(one.verdict == "tie" for one in made):
        made = [replace(one, verdict="tie") if one.trial == best else one for one in made]
    return sorted(
        made, key=lambda one: (one.trial != best, one.trial in left_out, -one.honest.mean)
    )


def _standing(
    number: int,
    own: Mapping[int, float],
    of_best: Mapping[int, float],
    *,
    is_best: bool,
    is_out: bool,
) -> Standing:
    honest = Spread.of(list(own.values()))
    if is_best:
        verdict = "best" if len(own) > 1 else "one seed"
        return Standing(trial=number, honest=honest, behind=0.0, p=math.nan, verdict=verdict)
    p = _p(own, of_best)
    if is_out:
        verdict = "worse, left out"
    elif math.isnan(p):
        verdict = "one seed"
    else:
        verdict = "worse" if p < TIE else "tie"
    differences = _differences(own, of_best)
    behind = -sum(differences) / len(differences) if differences else math.nan
    return Standing(trial=number, honest=honest, behind=behind, p=p, verdict=verdict)


def _p(own: Mapping[int, float], of_best: Mapping[int, float]) -> float:
    """Return the probability of such differences, were the trial as good as the best one."""
    differences = _differences(own, of_best)
    if len(differences) < 2:
        return math.nan
    if max(differences) - min(differences) < 1e-9:  # but for rounding, a division by zero
        return 0.0 if differences[0] < 0 else 1.0
    from scipy.stats import ttest_1samp  # a second of work, of no use without re-runs

    return float(ttest_1samp(differences, 0.0, alternative="less").pvalue)


def _differences(own: Mapping[int, float], of_best: Mapping[int, float]) -> list[float]:
    return [own[repeat] - of_best[repeat] for repeat in sorted(own.keys() & of_best.keys())]


def _best(found: Accuracies) -> int:
    """Return the trial of the highest mean; of equals the one that the search ranked higher."""
    return max(found, key=lambda number: _mean(found[number].values()))


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else -math.inf


def _until(of: Mapping[int, float], repeat: int) -> dict[int, float]:
    return {number: value for number, value in of.items() if number < repeat}


def _last(accuracy: float | None) -> float:
    assert accuracy is not None, "the last epoch is always measured on the test images"
    return accuracy
