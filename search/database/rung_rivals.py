"""Compares a trial on a rung with the trials recorded there before it.

The time hardly grows with the study. A trial that is taken over is compared with the same rivals
again, and gets the same answer.
"""

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.database import queries
from search.database.database import Database
from search.database.queries import StudyRef


class Recorded:
    """The metrics of the other trials after `epoch`, see `search.study.pruners.Rivals`."""

    def __init__(
        self, database: Database, ref: StudyRef, study: Study, trial: FrozenTrial, epoch: int
    ) -> None:
        self._database = database
        self._ref = ref
        self._rung = {"trial": trial.number, "epoch": epoch}
        self._sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1

    def standing(self, value: float) -> tuple[int, int]:
        with self._database.engine.connect() as connection:
            return queries.standing(connection, self._ref, score=self._sign * value, **self._rung)

    def best(self, place: int) -> float:
        with self._database.engine.connect() as connection:
            return self._sign * queries.scores(connection, self._ref, n=place, **self._rung)[-1]
