"""The rungs of a study: how a trial compares with those that reached the same epoch.

Only sampled trials compete. Fixed and enqueued ones are never pruned, and would take the places of
those that are searched for. The time hardly grows with the study.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from search.database import queries
from search.database.database import Database
from search.database.queries import Entry, StudyRef
from search.study.pruners import Promotion

FEWEST = 4
"""The number of waiting trials at a rung that keep their checkpoints, however few places it has."""


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
class RecordedRung:
    """See `search.study.pruners.Rung`."""

    connection: Connection
    ref: StudyRef
    epoch: int
    loss: str | None
    """The metric that is compared, lower is better; None for the study's."""

    def __len__(self) -> int:
        return queries.n_on_rung(self.connection, self.ref, self.epoch)

    def best(self, n: int) -> list[Entry]:
        numbers = queries.best_on_rung(self.connection, self.ref, self.epoch, n=n, loss=self.loss)
        trials = queries.entries(self.connection, self.ref, numbers)
        found = {trial.number: trial for trial in trials}
        return [found[number] for number in numbers]

    def is_waiting(self, trial: Entry) -> bool:
        return trial.state == TrialState.PRUNED and trial.rung == self.epoch


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The trials that `promotion` has stopped at rungs, in a study of `epochs` epochs."""

    ref: StudyRef
    promotion: Promotion
    epochs: int

    def promotable(self, connection: Connection) -> Entry | None:
        """See `search.study.pruners.Promotion`."""
        return self.promotion.promotable(self._rungs(connection))

    def contenders(self, connection: Connection) -> set[int]:
        """Return the numbers of the trials that may yet be promoted, of which checkpoints are kept.

        They are within twice the places of their rung, or the `FEWEST` best. One that comes from
        further behind is trained again from its start, with the same metrics.
        """
        return {
            trial.number
            for rung in self._rungs(connection).values()
            for trial in rung.best(max(2 * self.promotion.places(len(rung)), FEWEST))
            if rung.is_waiting(trial)
        }

    def _rungs(self, connection: Connection) -> Mapping[int, RecordedRung]:
        return {
            epoch: RecordedRung(
                connection=connection,
                ref=self.ref,
                epoch=epoch,
                loss=self.promotion.loss_at(epoch),
            )
            for epoch in self.promotion.rungs(self.epochs - 1)
        }
