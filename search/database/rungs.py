"""The rungs of a study: how a trial compares with those that reached the same epoch.

Only sampled trials compete. Fixed and enqueued ones are never pruned, and would take the places of
those that are searched for. The time hardly grows with the study.
"""

from dataclasses import dataclass

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from search.database import queries
from search.database.database import Database
from search.database.queries import Entry, StudyRef
from search.study.pruners import Promotion


class Recorded:
    """The metrics of the other trials that recorded `epoch` before this one, see
    `search.study.pruners.Rivals`.

    A trial that is taken over is compared with the same rivals again, and gets the same answer.
    """

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


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The trials that `promotion` has stopped at rungs, in a study of `epochs` epochs."""

    ref: StudyRef
    promotion: Promotion
    epochs: int

    def promotable(self, connection: Connection) -> Entry | None:
        """Return the trial to go on with: the best that has earned it, from the highest rung."""
        for rung in reversed(self._rungs()):
            n = queries.n_on_rung(connection, self.ref, rung)
            for trial in self._best(connection, rung, self.promotion.places(n)):
                if trial.state == TrialState.PRUNED and trial.rung == rung:
                    return trial
        return None

    def contenders(self, connection: Connection) -> set[int]:
        """Return the numbers of the trials that may yet be promoted, of which checkpoints are kept.

        They are within twice the places of their rung. One that comes from further behind is
        trained again from its start, with the same metrics.
        """
        found = set()
        for rung in self._rungs():
            n = queries.n_on_rung(connection, self.ref, rung)
            places = max(2 * self.promotion.places(n), self.promotion.factor)
            for trial in self._best(connection, rung, places):
                if trial.state == TrialState.PRUNED and trial.rung == rung:
                    found.add(trial.number)
        return found

    def _rungs(self) -> list[int]:
        return self.promotion.rungs(self.epochs - 1)

    def _best(self, connection: Connection, rung: int, n: int) -> list[Entry]:
        numbers = queries.best_on_rung(connection, self.ref, rung, n=n)
        found = {trial.number: trial for trial in queries.entries(connection, self.ref, numbers)}
        return [found[number] for number in numbers]
