"""Whose weights are kept: those of each variant's first run, and of the best trials.

The files are for `search.store`. Here is what the database says of them: their SHA-256 in a table
of the service's own, and the dashboard's list. Both are written before the trial ends, so that no
kill leaves a completed trial without them. A file that nobody needs is removed after it has gone
from both, and without the study's lock: it may be on a network.
"""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, insert, select

from search import listing
from search.listing import Entry
from search.storage import Database
from search.store import Store
from search.tables import weights as table
from search.trials import REPEAT, VARIANT, rank, ranked

BEST = 5
"""So many of the best trials keep their weights, variants among them."""


def kept(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials whose weights are to be kept, the best first."""
    complete = ranked(trials)
    return [t for place, t in enumerate(complete) if place < BEST or is_first_run(t)]


def is_first_run(trial: FrozenTrial) -> bool:
    """Return whether it is a variant, and no re-run of it but the first."""
    return VARIANT in trial.user_attrs and trial.user_attrs.get(REPEAT, 0) == 0


class Kept:
    """The kept weights of one study, and what is listed of its checkpoints."""

    def __init__(self, database: Database, study: optuna.Study, store: Store) -> None:
        self.store = store
        self._database = database
        self._study = study
        self._study_id: int = study._study_id

    def wants(self, trial_id: int, accuracy: float) -> bool:
        """Return whether the weights of a trial that ends now with this accuracy are kept."""
        trials = self._trials()
        (trial,) = (t for t in trials if t._trial_id == trial_id)
        others = [t for t in ranked(trials) if t._trial_id != trial_id]
        mine = rank(accuracy, trial.number)
        better = sum(rank(t.values[0], t.number) < mine for t in others)
        return better < BEST or is_first_run(trial)

    def enter(self, trial_id: int, number: int, accuracy: float | None, sha256: str | None) -> None:
        """Note the weights of a trial that is about to end, if they are to be kept; only under the
        study's lock.

        `accuracy` None: it is not complete. `sha256` None: there are no weights, and what a killed
        worker noted is not true any more. May be done again by whoever takes the trial over.
        """
        is_kept = sha256 is not None and accuracy is not None and self.wants(trial_id, accuracy)
        entry = self.entry(number, sha256 if is_kept else None)
        with self._database.engine.begin() as connection:
            connection.execute(delete(table).where(table.c.trial_id == trial_id))
            listing.replace(connection, trial_id, entry)
            if is_kept:
                connection.execute(
                    insert(table).values(
                        trial_id=trial_id,
                        study_id=self._study_id,
                        sha256=sha256,
                        artifact_id=entry.artifact_id,
                    )
                )

    def entry(self, number: int, sha256: str | None, *, epoch: int | None = None) -> Entry:
        """Return what to list of trial `number`: its weights, its checkpoint after `epoch`, or
        nothing for `sha256` None."""
        prefix = self.store.trial_prefix(number)
        if sha256 is None:
            return Entry(prefix=prefix)
        ending = ".safetensors" if epoch is None else f"-epoch-{epoch}.pt"
        return Entry(
            prefix=prefix,
            artifact_id=self.store.artifact_id(number, sha256, epoch=epoch),
            filename=f"{self._study.study_name}-{number}{ending}",
        )

    def drop_others(self) -> None:
        """Forget the weights of the ended trials that are not to be kept, or not any more; only
        under the study's lock."""
        trials = self._trials()
        stay = {trial._trial_id for trial in kept(trials)}
        stay |= {trial._trial_id for trial in trials if trial.state == TrialState.RUNNING}
        for trial_id, artifact_id in self._rows():
            if trial_id not in stay:
                with self._database.engine.begin() as connection:
                    connection.execute(delete(table).where(table.c.trial_id == trial_id))
                    listing.remove(connection, trial_id, [artifact_id])

    def sweep(self) -> None:
        """Remove what killed workers left; takes the study's lock."""
        with self._database.lock(self._study.study_name):
            self.drop_others()
        self.clean()

    def clean(self) -> None:
        """Remove the files of ended trials that are not kept weights; needs no lock."""
        # The files first: a trial whose file is here by now had begun before it is asked for, and
        # one that ends after it was asked for has its weights noted.
        ids = self.store.ids()
        running = {t.number for t in self._trials() if t.state == TrialState.RUNNING}
        with self._database.engine.begin() as connection:
            listing.remove_stale(connection, self._study_id, self.store.prefix)
        kept = {artifact_id for _, artifact_id in self._rows()}
        self.store.remove(self.store.surplus(ids, kept=kept, running=running))

    def _trials(self) -> list[FrozenTrial]:
        return self._database.optuna.get_all_trials(self._study_id, deepcopy=False)

    def _rows(self) -> list[tuple[int, str]]:
        query = select(table.c.trial_id, table.c.artifact_id)
        with self._database.engine.connect() as connection:
            rows = connection.execute(query.where(table.c.study_id == self._study_id))
            return [(row.trial_id, row.artifact_id) for row in rows]
