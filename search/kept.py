"""Whose weights are kept: those of each variant's first run, and of the best trials.

The files are for `search.store`. Here is what the database says of them: their SHA-256 in a table
of the service's own, and Optuna's list of a trial's artifacts, which the dashboard shows. Both are
written before the trial ends, so that no kill leaves a completed trial without them.
"""

import json
from collections.abc import Collection
from dataclasses import asdict

import optuna
from optuna.artifacts import ArtifactMeta
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.storages._rdb.models import TrialSystemAttributeModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, delete, insert, select

from search import roster
from search.roster import Entry, Place
from search.storage import Database
from search.store import Store
from search.tables import weights as table
from search.trials import REPEAT, VARIANT, rank

BEST = 5
"""So many of the best trials keep their weights, variants among them."""


def is_first_run(trial: FrozenTrial) -> bool:
    """Return whether it is a variant, and no re-run of it but the first."""
    return VARIANT in trial.user_attrs and trial.user_attrs.get(REPEAT, 0) == 0


class Kept:
    """The kept weights of one study.

    What is written here is written under the study's lock.
    """

    def __init__(
        self, database: Database, study: optuna.Study, store: Store, *, epochs: int
    ) -> None:
        """`epochs` is after how many of them a trial of the study is complete."""
        self.store = store
        self._epochs = epochs
        self._database = database
        self._study = study
        self._study_id: int = study._study_id

    def wants(self, trial_id: int, accuracy: float) -> bool:
        """Return whether the weights of a trial that ends now with this accuracy are kept."""
        trial = self._database.optuna.get_trial(trial_id)
        mine = rank(accuracy, trial.number)
        better = [p for p in self._best() if rank(p.accuracy, p.number) < mine]
        return len(better) < BEST or is_first_run(trial)

    def enter(self, trial_id: int, number: int, accuracy: float, sha256: str | None) -> None:
        """Note the weights of a trial that is about to complete, if they are to be kept.

        `sha256` None: there are none, and what a killed worker noted is not true any more. May be
        done again by whoever takes the trial over.
        """
        wanted = sha256 if sha256 is not None and self.wants(trial_id, accuracy) else None
        with self._database.engine.begin() as connection:
            _forget(connection, trial_id, self._artifact_ids(connection, trial_id))
            if wanted is not None:
                connection.execute(
                    insert(table).values(
                        trial_id=trial_id,
                        study_id=self._study_id,
                        sha256=wanted,
                        artifact_id=self.store.artifact_id(number, wanted),
                    )
                )
        if wanted is not None:
            self._list(trial_id, number, wanted)
        self.store.keep_only(number, wanted)

    def drop_others(self) -> None:
        """Remove the weights of the ended trials that are not to be kept, or not any more."""
        best = {place.trial_id for place in self._best()}
        for trial_id, artifact_id in self._rows():
            if trial_id in best:
                continue
            trial = self._database.optuna.get_trial(trial_id)
            complete = trial.state == TrialState.COMPLETE
            if trial.state != TrialState.RUNNING and not (complete and is_first_run(trial)):
                with self._database.engine.begin() as connection:
                    _forget(connection, trial_id, [artifact_id])
                self.store.remove(artifact_id)

    def sweep(self) -> None:
        """Remove what killed workers left; takes the study's lock."""
        with self._database.lock(self._study.study_name):
            self.drop_others()
            begun = {t.number for t in self._running()}
            self.store.sweep({artifact_id for _, artifact_id in self._rows()}, begun)

    def _list(self, trial_id: int, number: int, sha256: str) -> None:
        """Add the weights to the trial's artifacts as `optuna.artifacts.upload_artifact` does.

        That function itself draws a new id each time, so that a trial taken over between its two
        steps would have two, one of them without a file.
        """
        meta = ArtifactMeta(
            artifact_id=self.store.artifact_id(number, sha256),
            filename=f"{self._study.study_name}-{number}.safetensors",
            mimetype="application/octet-stream",
            encoding=None,
        )
        self._database.optuna.set_trial_system_attr(
            trial_id, ARTIFACTS_ATTR_PREFIX + meta.artifact_id, json.dumps(asdict(meta))
        )

    def _best(self) -> list[Place]:
        with self._database.engine.connect() as connection:
            return roster.best(connection, self._study_id, epochs=self._epochs, n=BEST)

    def _running(self) -> list[Entry]:
        with self._database.engine.connect() as connection:
            entries = roster.unfinished(connection, self._study_id)
        return [entry for entry in entries if entry.state == TrialState.RUNNING]

    def _rows(self) -> list[tuple[int, str]]:
        query = select(table.c.trial_id, table.c.artifact_id)
        with self._database.engine.connect() as connection:
            rows = connection.execute(query.where(table.c.study_id == self._study_id))
            return [(row.trial_id, row.artifact_id) for row in rows]

    def _artifact_ids(self, connection: Connection, trial_id: int) -> list[str]:
        query = select(table.c.artifact_id).where(table.c.trial_id == trial_id)
        return list(connection.scalars(query))


def _forget(connection: Connection, trial_id: int, artifact_ids: Collection[str]) -> None:
    """Remove the trial's row, and its artifacts from Optuna's list.

    Optuna refuses to change the attributes of a trial that has ended, and what the dashboard does
    instead, to set them to null, is what `optuna.artifacts.get_all_artifact_meta` stumbles over.
    """
    listed = TrialSystemAttributeModel.__table__
    connection.execute(delete(table).where(table.c.trial_id == trial_id))
    connection.execute(
        delete(listed).where(
            listed.c.trial_id == trial_id,
            listed.c.key.in_([ARTIFACTS_ATTR_PREFIX + one for one in artifact_ids]),
        )
    )
