"""The best trial of a search, determined by re-runs if there are any.

The best metric of a search is biased, since it is selected from many. Trials that were
re-run with fresh seeds are compared by their means over these; see `search.analysis.paired_test`.
The mean that chose the best is biased too, though less: a winner that has more seeds than the
others is judged by those.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from optuna.trial import FrozenTrial

from search.analysis.paired_test import Finals, Standing, finals, standings
from search.analysis.rerun_metrics import Repeats, Spread, repeats
from search.database.database import Database
from search.database.snapshot import Overview
from search.database.studies import rerun_study
from search.study.metrics import Epoch, number
from search.study.trial_attributes import label

LEVEL = 0.95
"""Of confidence intervals."""
COLLAPSE = 0.1
COLLAPSED_BY = f"diverged, or ended {COLLAPSE:.0%} or more below the run's best epoch"
COLLAPSED = f"A run has collapsed if it {COLLAPSED_BY}."


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """The re-runs of the best trial with seeds that had no part in choosing it."""

    unused: Spread
    """The final metric over these seeds."""
    interval: tuple[float, float]
    """The confidence interval of its mean at `LEVEL`."""
    worst: float
    """The lowest of these metrics, or the highest if it is minimized."""
    collapsed: int
    """Number of these runs that collapsed, see `COLLAPSED`."""
    won_with: Spread
    """The final metric over the seeds that chose it."""

    @property
    def interval_text(self) -> str:
        if self.unused.n < 2:
            return "unknown from one seed"
        low, high = (number(bound, beside=self.unused.mean) for bound in self.interval)
        return f"{low} to {high}"

    @property
    def won_text(self) -> str:
        n = self.won_with.n
        return f"{number(self.won_with.mean)} over {n} other seed{'s' if n > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    best: FrozenTrial | None
    """The best trial by mean over re-runs, if several trials were re-run; otherwise the search's
    top trial. None if no trial is complete."""
    standings: Mapping[int, Standing]
    """Standings of the trials that were re-run, by number, best first."""
    confirmed: Confirmed | None
    """None if the best trial has no seeds but those that chose it."""
    seconds: Mapping[int, float]
    """The median time of an epoch in seconds over all re-runs, by the number of the trial; infinite
    if all of them diverged in their first epoch."""
    not_rerun: FrozenTrial | None
    """The search's top trial, if it was not re-run."""
    metric: str
    """The final metric, in words."""

    @property
    def is_of_reruns(self) -> bool:
        """Whether re-runs compare several trials, and so decide which is the best."""
        return len(self.standings) > 1

    def leading(self, ranked: Sequence[FrozenTrial], n: int) -> list[FrozenTrial]:
        """Return `n` trials of the `ranked` ones, the best first."""
        if self.best is None:
            return []
        best = self.best
        return [best, *(trial for trial in ranked if trial.number != best.number)][:n]

    @property
    def tied(self) -> list[int]:
        """Numbers of the trials that the re-runs cannot distinguish from the best."""
        best = self.best and self.best.number
        return [n for n, one in self.standings.items() if one.verdict == "tie" and n != best]

    @property
    def cheapest(self) -> int | None:
        """The number of the trial with the fastest epochs among the best and those tied with it;
        None if there is no tie."""
        if self.best is None or not self.tied:
            return None
        return min([self.best.number, *self.tied], key=self.seconds.__getitem__)

    @property
    def spread(self) -> Spread | None:
        """The final metric of the best trial over the seeds that had no part in choosing it, or
        else over all of its re-runs; None if it was not re-run."""
        if self.best is None or self.best.number not in self.standings:
            return None
        if self.confirmed is not None:
            return self.confirmed.unused
        return self.standings[self.best.number].honest

    @property
    def seeds_text(self) -> str:
        """How many seeds `spread` is over, and whether they had a part in choosing."""
        n = 0 if self.spread is None else self.spread.n
        kind = "fresh" if self.confirmed is None else "unused"
        return f"{n} {kind} seed{'s' if n > 1 else ''}"

    @property
    def text(self) -> str | None:
        """The result of the re-runs as text; None if the best trial was not re-run."""
        if self.best is None or (spread := self.spread) is None:
            return None
        confirmed = self.confirmed
        parts = [f"Best over {self.seeds_text}: trial {label(self.best)}, {self.metric} {spread}"]
        if confirmed is not None:
            parts += [
                f"{LEVEL:.0%} interval of the mean {confirmed.interval_text}",
                f"{confirmed.collapsed} of {spread.n} collapsed"
                + (f" ({COLLAPSED_BY})" if confirmed.collapsed else ""),
                f"it won with {confirmed.won_text}, after {number(self.best.values[0])} in the "
                "search",
            ]
        if self.tied:
            parts.append(f"tied with {self.tied_text}")
        return "; ".join(parts) + "."

    @property
    def tied_text(self) -> str:
        """The trials that are tied with the best, and which of them all has the fastest epochs."""
        assert self.best is not None
        numbers, cheapest = ", ".join(map(str, self.tied)), self.cheapest
        tied = f"trial{'s' if len(self.tied) > 1 else ''} {numbers}"
        if cheapest is None:
            return tied
        if cheapest == self.best.number:
            return f"{tied}, none of which has faster epochs"
        rate = f"{self.seconds[cheapest]:.3g} s against {self.seconds[self.best.number]:.3g} s"
        if len(self.tied) == 1:
            return f"{tied}, whose epochs are faster: {rate}"
        return f"{tied}; the epochs of trial {cheapest} are the fastest: {rate}"


def answer(database: Database, overview: Overview) -> Answer:
    """Return the answer of the study whose overview is `overview`."""
    return answer_from_reruns(overview, reruns_of(database, overview.study_key))


def reruns_of(database: Database, study_key: str) -> Repeats:
    """Return the re-runs of the trials of the study with the key `study_key`."""
    name = rerun_study(database, study_key)
    return {} if name is None else repeats(Overview.of_study(database, name))


def answer_from_reruns(overview: Overview, runs: Repeats) -> Answer:
    """Return the answer by the re-runs `runs`.

    `overview` must contain the re-run trials and the best of the others.
    """
    ranked = {trial.number: trial for trial in overview.ranked}
    numbers = [number for number in ranked if f"trial {number}" in runs]
    final = overview.final
    reached = finals(runs, numbers, final, overview.n_epochs)
    made = standings(reached, final.direction)
    found = {standing.trial: standing for standing in made}
    first = next(iter(ranked.values()), None)
    best = ranked[made[0].trial] if len(made) > 1 else first
    is_proven = first is None or first.number in found
    return Answer(
        best=best,
        standings=found,
        confirmed=(
            _confirmed(found[best.number], reached, runs, overview)
            if best is not None and best.number in found and found[best.number].unused
            else None
        ),
        seconds={number: _seconds(runs[f"trial {number}"].values()) for number in found},
        not_rerun=None if is_proven else first,
        metric=final.words,
    )


def _seconds(runs: Iterable[Sequence[Epoch]]) -> float:
    found = [epoch.seconds for recorded in runs for epoch in recorded]
    return median(found) if found else math.inf


def _confirmed(best: Standing, reached: Finals, runs: Repeats, overview: Overview) -> Confirmed:
    of, recorded = reached[best.trial], runs[f"trial {best.trial}"]
    unused = Spread.of([of[repeat] for repeat in best.unused])
    return Confirmed(
        unused=unused,
        interval=unused.interval_of_mean(LEVEL),
        worst=unused.lowest if overview.final.direction == "maximize" else unused.highest,
        collapsed=sum(
            len(recorded[repeat]) < overview.n_epochs or _is_collapsed(recorded[repeat], overview)
            for repeat in best.unused
        ),
        won_with=Spread.of([of[repeat] for repeat in of.keys() - set(best.unused)]),
    )


def _is_collapsed(recorded: Sequence[Epoch], overview: Overview) -> bool:
    """See `COLLAPSED`."""
    metric, score = overview.final.metric, overview.final.score
    scores = [score(epoch.metrics[metric]) for epoch in recorded if metric in epoch.metrics]
    return max(scores) - scores[-1] >= COLLAPSE * abs(max(scores))
