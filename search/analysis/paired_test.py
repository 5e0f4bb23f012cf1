"""Ranking of the best trials by re-runs with fresh seeds.

The highest accuracy in a search is biased upward, since it is selected from many. Re-runs are
paired by seed, so that effects of a seed on all trials cancel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from search.analysis.rerun_metrics import Repeats, Spread

MIN_SEEDS = 3
"""Minimum number of seeds before a trial may be left out."""
LEAVE_OUT = 0.01
TIE = 0.05
RULE = (
    "Rule: trials are compared with the one with the highest mean, by a one-sided t-test over "
    f"paired seeds. From {MIN_SEEDS} seeds on, a trial that is worse at level {LEAVE_OUT} is left "
    f"out of further seeds; at the end, a trial that is not worse at level {TIE} is a tie. A "
    "diverged run counts as accuracy 0."
)

Accuracies = Mapping[int, Mapping[int, float]]
"""Test accuracy after the last epoch, by trial number and repeat."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The result of a trial's re-runs."""

    trial: int
    honest: Spread
    """Spread of the test accuracy over the seeds."""
    behind: float
    """Mean over common seeds of the best trial's accuracy minus this trial's; 0 for the best, NaN
    if the two have no common seed."""
    p: float
    """p-value of the t-test; NaN if it cannot be computed."""
    verdict: str
    """`best`, `worse`, or `worse, left out`; `tie` for the best trial and those not worse than it;
    `one seed` if there are too few seeds."""


def accuracies(runs: Repeats, numbers: Sequence[int], epochs: int) -> Accuracies:
    """Return the accuracies of the re-runs; 0 if a run diverged before its last epoch, `epochs`."""
    return {
        number: {
            repeat: _last(found[-1].test_accuracy) if len(found) == epochs else 0.0
            for repeat, found in sorted(runs.get(f"trial {number}", {}).items())
        }
        for number in numbers
    }


def remaining_trials(found: Accuracies, repeat: int) -> list[int]:
    """Return the trials that `RULE` has not left out before re-run `repeat`.

    The result depends only on earlier re-runs, so that all processes decide alike.
    """
    left = list(found)
    for seen in range(MIN_SEEDS, repeat + 1):
        before = {n: {r: value for r, value in found[n].items() if r < seen} for n in left}
        best = _best(before)
        left = [n for n in left if n == best or not _p(before[n], before[best]) < LEAVE_OUT]
    return left


def standings(found: Accuracies) -> list[Standing]:
    """Return the standings of the trials with re-runs, best first.

    The best trial has the highest mean, among those that `RULE` has not left out, over their common
    seeds, or over each trial's seeds if there are no common ones.
    """
    found = {number: of for number, of in found.items() if of}
    if not found:
        return []
    rounds, most = 1 + max(map(max, found.values())), max(map(len, found.values()))
    left_out = {n for n, of in found.items() if len(of) < most} - set(
        remaining_trials(found, rounds)
    )
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
    """Return the p-value: the probability of such differences if the trial equals the best one."""
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
    """Return the trial with the highest mean; ties go to the trial ranked higher in the search."""
    means = {n: sum(of.values()) / len(of) if of else -math.inf for n, of in found.items()}
    return max(means, key=means.__getitem__)


def _last(accuracy: float | None) -> float:
    assert accuracy is not None, "the last epoch is always measured on the test images"
    return accuracy
