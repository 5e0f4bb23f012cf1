"""Decides which weights are kept: those of each variant's first run, and of the best trials; and
which checkpoints: those of trials that run, or that were stopped and may go on.

The database holds their SHA-256 and the dashboard's list of files. Both are written in the
transaction that ends the trial, after the file. A file that is no longer needed is removed after it
has left both, without the study's lock, since it may be on a network.
"""

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, delete, insert, select

from search.artifacts.files_of_study import StudyFiles
from search.database import artifact_lists, queries
from search.database.artifact_lists import File, Listed
from search.database.database import Database
from search.database.leases import Claim
from search.database.queries import Place, StudyRef
from search.database.rungs import Ladder
from search.database.tables import weights as table
from search.study.trial_attributes import rank

BEST = 5
"""Number of best trials whose weights are kept, including variants."""


class Retention:
    """The kept files of one study, and the dashboard's list of them."""

    def __init__(
        self,
        database: Database,
        ref: StudyRef,
        store: StudyFiles,
        *,
        name: str,
        suffix: str,
        epochs: int,
        ladder: Ladder | None = None,
    ) -> None:
        """`name` is the study's and `suffix` the ending of weights files, both used for downloads;
        `epochs` is the number of epochs of a complete trial."""
        self.store = store
        self._ladder = ladder
        self._epochs = epochs
        self._database = database
        self._ref = ref
        self._name = name
        self._suffix = suffix

    def wants(self, claim: Claim, score: float) -> bool:
        """Return whether the weights of the claimed trial are kept if it ends with this score."""
        with self._database.engine.connect() as connection:
            mine = rank(score, claim.number)
            better = [p for p in self._best(connection) if rank(p.score, p.number) < mine]
            return len(better) < BEST or queries.entry(connection, claim.trial_id).is_first_run

    def enter(self, connection: Connection, claim: Claim, sha256: str | None) -> list[str]:
        """Enter the weights of a trial that has just ended; only under the study's lock.

        `sha256` is None if it has none. Return the ids of files that are no longer listed.
        """
        listed = self.listed(claim, sha256)
        connection.execute(delete(table).where(self._is(claim.number)))
        for file in listed.files:
            connection.execute(
                insert(table).values(
                    study_key=self._ref.key,
                    trial=claim.number,
                    sha256=sha256,
                    artifact_id=file.artifact_id,
                )
            )
        return artifact_lists.replace(connection, listed)

    def listed(self, claim: Claim, sha256: str | None, epoch: int | None = None) -> Listed:
        """Return the list of a trial's files: its weights, or its checkpoint after `epoch`; none if
        `sha256` is None."""
        number, files = claim.number, []
        if sha256 is not None:
            ending = self._suffix if epoch is None else f"-epoch-{epoch}.pt"
            artifact_id = self.store.artifact_id(number, sha256, epoch=epoch)
            files.append(File(artifact_id=artifact_id, filename=f"{self._name}-{number}{ending}"))
        return Listed(trial_id=claim.trial_id, prefix=self.store.trial_prefix(number), files=files)

    def drop_others(self, connection: Connection) -> list[str]:
        """Remove the entries of files that are no longer kept; only under the study's lock.

        Return the ids of these files.
        """
        dropped = []
        best = {place.number for place in self._best(connection)}
        kept = {
            n: artifact_id for n, artifact_id in self._rows(connection).items() if n not in best
        }
        for trial in queries.entries(connection, self._ref, kept):
            is_kept = trial.state == TrialState.COMPLETE and trial.is_first_run
            if trial.state != TrialState.RUNNING and not is_kept:
                artifact_id = kept[trial.number]
                connection.execute(delete(table).where(self._is(trial.number)))
                artifact_lists.remove(connection, trial.trial_id, [artifact_id])
                dropped.append(artifact_id)
        if self._ladder is not None:
            dropped += self._remove_stale(connection)
        return dropped

    def sweep(self) -> None:
        """Remove files left by killed workers; takes the study's lock."""
        with self._database.lock(self._ref.key) as connection:
            self.drop_others(connection)
        self.clean()

    def clean(self) -> None:
        """Remove the files of finished trials that are not kept; needs no lock."""
        # Files are listed first. A trial whose file is listed has started before trials are read,
        # and a trial that ends after they are read has its weights entered, or may go on.
        ids = self.store.ids()
        running = self._running()
        with self._database.engine.begin() as connection:
            self._remove_stale(connection)
        with self._database.engine.connect() as connection:
            kept = set(self._rows(connection).values())
            kept |= artifact_lists.listed(connection, self._ref, self.store.prefix)
        self.store.remove(self.store.surplus(ids, kept=kept, running=running))

    def _remove_stale(self, connection: Connection) -> list[str]:
        resumable = self._resumable(connection)
        return artifact_lists.remove_stale(
            connection, self._ref, self.store.prefix, resumable=resumable
        )

    def _resumable(self, connection: Connection) -> set[int]:
        """Return the numbers of the pruned trials that may go on."""
        found = {trial.number for trial in queries.cut_short(connection, self._ref)}
        return found if self._ladder is None else found | self._ladder.contenders(connection)

    def _best(self, connection: Connection) -> list[Place]:
        return queries.best(connection, self._ref, epochs=self._epochs, n=BEST)

    def _running(self) -> set[int]:
        """Return the numbers of the running trials."""
        with self._database.engine.connect() as connection:
            unfinished = queries.unfinished(connection, self._ref)
        return {trial.number for trial in unfinished if trial.state == TrialState.RUNNING}

    def _rows(self, connection: Connection) -> dict[int, str]:
        """Return the ids of the kept weights by trial number."""
        query = select(table.c.trial, table.c.artifact_id)
        rows = connection.execute(query.where(table.c.study_key == self._ref.key))
        return {row.trial: row.artifact_id for row in rows}

    def _is(self, number: int) -> ColumnElement[bool]:
        return (table.c.study_key == self._ref.key) & (table.c.trial == number)
