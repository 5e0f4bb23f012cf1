"""How a trial stands among the others on a rung, as the database has recorded them.

In a time that hardly grows with the study; and only against what was recorded before, so that a
trial that is asked about again, after it was taken over, gets the answer that it got.
"""

from optuna import Study
from optuna.trial import FrozenTrial

from search.database import queries
from search.database.database import Database
from search.database.queries import StudyRef


class Recorded:
    """The other trials' accuracies after `epoch`."""

    def __init__(
        self, database: Database, ref: StudyRef, study: Study, trial: FrozenTrial, epoch: int
    ) -> None:
        self._database = database
        self._ref = ref
        self._rung = {"trial": trial.number, "epoch": epoch}

    def standing(self, value: float) -> tuple[int, int]:
        with self._database.engine.connect() as connection:
            return queries.standing(connection, self._ref, accuracy=value, **self._rung)

    def best(self, place: int) -> float:
        with self._database.engine.connect() as connection:
            return queries.accuracies(connection, self._ref, n=place, **self._rung)[-1]
