"""Which trial a search has found: the best by its re-runs, once there are any.

The accuracy that a trial won with is the highest of many, and too high. Trials that were trained
again with fresh seeds are compared by their means over these; see `search.analysis.ranking`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.analysis.ranking import Standing, accuracies, standings
from search.analysis.seeds import Repeats, repeats
from search.database.database import Database
from search.database.identity import identify
from search.database.snapshot import Overview
from search.database.studies import rerun_study
from search.study.choices import in_words
from search.study.trial_attributes import label


@dataclass(frozen=True, kw_only=True)
class Answer:
    best: FrozenTrial | None
    """The best by re-run mean of those that were trained again, if there are several; else the one
    that the search ranks first. None while none is complete."""
    standings: Mapping[int, Standing]
    """Of the trials that were trained again, by number, best first."""
    unproven: FrozenTrial | None
    """The one that the search ranks first, if it was not trained again."""

    @property
    def tied(self) -> list[int]:
        """The numbers of the trials that the re-runs cannot tell from the best."""
        return [
            number
            for number, one in self.standings.items()
            if self.best is not None and one.verdict == "tie" and number != self.best.number
        ]

    @property
    def text(self) -> str | None:
        """What the re-runs have shown, in words; None if the best trial has none."""
        if self.best is None or self.best.number not in self.standings:
            return None
        honest = self.standings[self.best.number].honest
        seeds = f"{honest.n} fresh seed{'s' if honest.n > 1 else ''}"
        tied = f", a tie with trial {', '.join(map(str, self.tied))}" if self.tied else ""
        return (
            f"With {seeds} the best is trial {label(self.best)}: test accuracy {honest}{tied}; "
            f"{in_words(self.best.params)}."
        )


def answer(database: Database, overview: Overview, name: str) -> Answer:
    """Return the answer of the study called `name`, of which `overview` is."""
    with database.engine.connect() as connection:
        found = identify(connection, name)
    assert found is not None, "its trials have been read"
    return decided(overview, reruns_of(database, found.ref.key))


def reruns_of(database: Database, study_key: str) -> Repeats:
    """Return the re-runs of the trials of the study of that key."""
    name = rerun_study(database, study_key)
    return {} if name is None else repeats(Overview.of_study(database, name))


def decided(overview: Overview, runs: Repeats) -> Answer:
    """Return the answer by `runs`; `overview` has those trials, and the best of the others."""
    ranked = {trial.number: trial for trial in overview.ranked}
    numbers = [number for number in ranked if f"trial {number}" in runs]
    made = standings(accuracies(runs, numbers, overview.n_epochs))
    found = {standing.trial: standing for standing in made}
    first = next(iter(ranked.values()), None)
    best = ranked[made[0].trial] if len(made) > 1 else first
    is_proven = first is None or first.number in found
    return Answer(best=best, standings=found, unproven=None if is_proven else first)
