"""The best trial of a search, determined by re-runs if there are any.

The best metric of a search is biased, since it is selected from many. Trials that were
re-run with fresh seeds are compared by their means over these; see `search.analysis.paired_test`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.analysis.paired_test import Standing, finals, standings
from search.analysis.rerun_metrics import Repeats, repeats
from search.database.database import Database
from search.database.snapshot import Overview
from search.database.studies import rerun_study
from search.study.space import params_text
from search.study.trial_attributes import label


@dataclass(frozen=True, kw_only=True)
class Answer:
    best: FrozenTrial | None
    """The best trial by mean over re-runs, if several trials were re-run; otherwise the search's
    top trial. None if no trial is complete."""
    standings: Mapping[int, Standing]
    """Standings of the trials that were re-run, by number, best first."""
    not_rerun: FrozenTrial | None
    """The search's top trial, if it was not re-run."""
    metric: str
    """The final metric, in words."""

    @property
    def tied(self) -> list[int]:
        """Numbers of the trials that the re-runs cannot distinguish from the best."""
        best = self.best and self.best.number
        return [n for n, one in self.standings.items() if one.verdict == "tie" and n != best]

    @property
    def text(self) -> str | None:
        """The result of the re-runs as text; None if the best trial was not re-run."""
        if self.best is None or self.best.number not in self.standings:
            return None
        honest = self.standings[self.best.number].honest
        seeds = f"{honest.n} fresh seed{'s' if honest.n > 1 else ''}"
        tied = f", tied with trial {', '.join(map(str, self.tied))}" if self.tied else ""
        return (
            f"Best over {seeds}: trial {label(self.best)}, {self.metric} {honest}{tied}; "
            f"{params_text(self.best.params)}."
        )


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
    made = standings(finals(runs, numbers, final, overview.n_epochs), final.direction)
    found = {standing.trial: standing for standing in made}
    first = next(iter(ranked.values()), None)
    best = ranked[made[0].trial] if len(made) > 1 else first
    is_proven = first is None or first.number in found
    return Answer(
        best=best,
        standings=found,
        not_rerun=None if is_proven else first,
        metric=final.words,
    )
