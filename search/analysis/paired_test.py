"""Ranking of the best trials by re-runs with fresh seeds.

The best metric of a search is biased, since it is selected from many. Re-runs are
paired by seed, so that effects of a seed on all trials cancel.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from search.analysis.rerun_metrics import Repeats, Spread
from search.study.confirmation import MIN_SEEDS
from search.study.metrics import Direction, Objective

LEAVE_OUT = 0.01
TIE = 0.05

Finals = Mapping[int, Mapping[int, float]]
"""The final metric after the last epoch, by trial number and repeat."""


def rule(final: Objective) -> str:
    """Return how trials are compared and left out, as text."""
    best = "highest" if final.direction == "maximize" else "lowest"
    diverged = "the worst of all"
    if final.diverged_as is not None:
        diverged = f"{final.quantity} {final.diverged_as:g}"
    return (
        f"Rule: trials are compared with the one with the {best} mean over their common seeds, of "
        f"those with {MIN_SEEDS} or more, by a one-sided t-test over paired seeds. From "
        f"{MIN_SEEDS} seeds on, a trial that is worse at level {LEAVE_OUT} is left out of further "
        f"seeds; at the end, a trial that is not worse at level {TIE} is a "
        f"tie. A diverged run counts as {diverged}."
    )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The result of a trial's re-runs."""

    trial: int
    honest: Spread
    """Spread of the final metric over the seeds."""
    unused: Sequence[int]
    """The repeats that had no part in choosing the best, since not all trials had them."""
    behind: float
    """Mean over common seeds of how much worse the trial is than the best; 0 for the best, NaN if
    the two have no common seed."""
    p: float
    """p-value of the t-test; NaN if it cannot be computed."""
    verdict: str
    """`best`, `worse`, or `worse, left out`; `tie` for the best trial and those not worse than it;
    `one seed` if there are too few seeds."""


def finals(runs: Repeats, numbers: Sequence[int], final: Objective, epochs: int) -> Finals:
    """Return the metric `final` of the re-runs; see `rule` for runs that diverged before the last
    epoch, `epochs`."""
    found = {
        number: {
            repeat: final.value(recorded[-1]) if len(recorded) == epochs else None
            for repeat, recorded in sorted(runs.get(f"trial {number}", {}).items())
        }
        for number in numbers
    }
    measured = [value for of in found.values() for value in of.values() if value is not None]
    diverged = final.diverged_as
    if diverged is None:
        diverged = min(measured, key=final.score, default=0.0)
    return {
        number: {repeat: diverged if value is None else value for repeat, value in of.items()}
        for number, of in found.items()
    }


def remaining_trials(found: Finals, repeat: int, direction: Direction) -> list[int]:
    """Return the trials that `rule` has not left out before re-run `repeat`.

    The result depends only on earlier re-runs, so that all processes decide alike.
    """
    return _remaining(_scores(found, direction), repeat)


def _remaining(found: Finals, repeat: int) -> list[int]:
    left = list(found)
    for seen in range(MIN_SEEDS, repeat + 1):
        before = {n: {r: value for r, value in found[n].items() if r < seen} for n in left}
        best = _best(before)
        left = [n for n in left if n == best or not _p(before[n], before[best]) < LEAVE_OUT]
    return left


def standings(finals: Finals, direction: Direction) -> list[Standing]:
    """Return the standings of the trials with re-runs, best first.

    The best trial has the best mean, among those that `rule` has not left out and that have enough
    seeds, over their common seeds, or over each trial's seeds if there are no common ones.
    """
    finals = {number: of for number, of in finals.items() if of}
    found = _scores(finals, direction)
    if not found:
        return []
    rounds, most = 1 + max(map(max, found.values())), max(map(len, found.values()))
    left_out = {n for n, of in found.items() if len(of) < most} - set(_remaining(found, rounds))
    left = {
        number: of
        for number, of in found.items()
        if number not in left_out and len(of) >= min(MIN_SEEDS, most)
    }
    common = set.intersection(*map(set, left.values()))
    best = _best({n: {k: of[k] for k in common or of} for n, of in left.items()})
    others = [of.keys() for number, of in found.items() if number != best]
    chosen_by = common if len(left) > 1 or not others else set().union(*others)
    made = [
        _standing(
            number,
            Spread.of(list(finals[number].values())),
            of,
            found[best],
            chosen_by or set(of),
            is_best=number == best,
            is_out=number in left_out,
        )
        for number, of in found.items()
    ]
    if any(one.verdict == "tie" for one in made):
        made = [replace(one, verdict="tie") if one.trial == best else one for one in made]
    return sorted(
        made,
        key=lambda one: (
            one.trial != best,
            one.trial in left_out,
            -fmean(found[one.trial].values()),
        ),
    )


def _standing(
    number: int,
    honest: Spread,
    own: Mapping[int, float],
    of_best: Mapping[int, float],
    chosen_by: Set[int],
    *,
    is_best: bool,
    is_out: bool,
) -> Standing:
    made = partial(Standing, trial=number, honest=honest, unused=sorted(own.keys() - chosen_by))
    if is_best:
        verdict = "best" if len(own) > 1 else "one seed"
        return made(behind=0.0, p=math.nan, verdict=verdict)
    p = _p(own, of_best)
    if is_out:
        verdict = "worse, left out"
    elif math.isnan(p):
        verdict = "one seed"
    else:
        verdict = "worse" if p < TIE else "tie"
    differences = _differences(own, of_best)
    behind = -sum(differences) / len(differences) if differences else math.nan
    return made(behind=behind, p=p, verdict=verdict)


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


def _best(found: Finals) -> int:
    """Return the trial with the highest mean; ties go to the trial ranked higher in the search."""
    means = {n: sum(of.values()) / len(of) if of else -math.inf for n, of in found.items()}
    return max(means, key=means.__getitem__)


def _scores(found: Finals, direction: Direction) -> Finals:
    """Return the metrics such that higher is better."""
    sign = 1 if direction == "maximize" else -1
    return {n: {repeat: sign * value for repeat, value in of.items()} for n, of in found.items()}
