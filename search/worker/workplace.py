"""A study in the database and the machine to run its trials on: where one worker works."""

from collections.abc import Collection
from dataclasses import dataclass

import optuna

from search.artifacts.retention import Kept
from search.artifacts.store import Artifacts
from search.artifacts.study_files import Store
from search.database.database import Database
from search.database.identity import study_ref
from search.database.outage import tolerating_outage
from search.database.studies import files_of
from search.reporting.notes import Notes
from search.study.study import Study
from search.worker.checkpoints import Checkpoints
from search.worker.claims import LEASE_SECONDS, Claims
from search.worker.session import Machine
from search.worker.trial import Objective
from search.worker.worker import Stop, work


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A study that has been joined, and where its trials are trained."""

    study: Study
    joined: optuna.Study
    database: Database
    machine: Machine
    artifacts: Artifacts
    lease_seconds: float = LEASE_SECONDS

    def work(
        self,
        stop: Stop,
        *,
        budget: int | None,
        wanted: Collection[str] | None = None,
        measure_train: bool = False,
    ) -> None:
        """Run trials until `budget` have finished or `stop` asks for an end.

        `budget` None stands for the enqueued trials, `wanted` for the names of some of them.

        Raises:
            KeepsFailing, DatabaseGone, StudyGone: as `search.worker.worker.work` does.
        """
        ref = study_ref(self.joined)
        store = Store(self.artifacts, files_of(self.database, ref))
        kept = Kept(self.database, ref, store, name=self.study.name, epochs=self.study.epochs)
        kept.sweep()
        notes = Notes(database=self.database, study=self.study, joined=self.joined)
        notes.update()
        claims = Claims(
            self.database,
            self.joined,
            ranges=self.study.ranges,
            budget=budget,
            wanted=wanted,
            lease_seconds=self.lease_seconds,
        )
        objective = Objective(
            study=self.study,
            joined=self.joined,
            database=self.database,
            claims=claims,
            checkpoints=Checkpoints(store),
            kept=kept,
            machine=self.machine,
            measure_train=measure_train,
        )
        work(objective, claims, stop, after_trial=notes.update_if_due)
        with tolerating_outage():
            notes.update()
            kept.clean()  # of what could not be removed before
