"""What a user asks of all workers of a study, wherever they run: to stop, to pause, or to leave a
trial.

A worker looks before it claims a trial, and whenever it renews the lease of the one that it runs.
"""

from dataclasses import dataclass, replace

from optuna.trial import TrialState
from sqlalchemy import Connection, delete, insert, select

from search.database import leases, queries
from search.database.database import Database
from search.database.identity import DEFINITION
from search.database.optuna_internals import begin_trial, end_trial, reopen_trial
from search.database.queries import StudyRef
from search.database.tables import clock, epochs
from search.database.tables import steering as table
from search.errors import UserError
from search.study.pruners import Promotion
from search.study.trial_attributes import (
    CANCELED,
    CUTOFF,
    PAUSED,
    REASON,
    REOPENED,
    RUNG,
    SECONDS,
)

WHY = "canceled by a user"


@dataclass(frozen=True, kw_only=True)
class Steering:
    is_paused: bool = False
    """Whether the workers wait."""
    stopped_at: float = 0.0
    """When the workers were last asked to stop, in the database's time: those that had started
    before do."""


def read(connection: Connection, study_key: str) -> Steering:
    row = connection.execute(select(table).where(table.c.study_key == study_key)).one_or_none()
    if row is None:
        return Steering()
    return Steering(is_paused=row.is_paused, stopped_at=row.stopped_at)


def now(connection: Connection) -> float:
    """Return the database's time in seconds since 1970."""
    return float(connection.execute(select(clock())).scalar_one())


def moment(database: Database) -> float:
    """Return the database's time in seconds since 1970."""
    with database.engine.connect() as connection:
        return now(connection)


def stop(database: Database, study: StudyRef) -> None:
    """Ask all workers of the study that run now to stop."""
    with database.lock(study.key) as connection:
        stop_within(connection, study)


def pause(database: Database, study: StudyRef, *, is_paused: bool) -> None:
    """Let all workers of the study wait, or go on."""
    with database.lock(study.key) as connection:
        _write(connection, study, replace(read(connection, study.key), is_paused=is_paused))


def cancel(database: Database, study: StudyRef, number: int) -> TrialState:
    """End a trial for good, and return the state that it was in.

    It is then pruned, with its last metric. If it has no epoch yet, it has failed: it takes no
    place of the budget, and a sampler is not told of it. A worker that runs it notices within
    seconds, or at the end of the epoch if the training calls no `after_batch`.

    Raises:
        UserError: there is no such trial, it has ended and would not go on, or it is a re-run,
            which a result needs.
    """
    definition = database.optuna.get_study_user_attrs(study.study_id)[DEFINITION]
    is_promoting = str(definition["pruner"]).startswith(f"{Promotion.__name__}(")
    with database.lock(study.key) as connection:
        found = queries.entries(connection, study, [number])
        if not found:
            raise UserError(f"--trial {number}: the study has no such trial")
        trial = found[0]
        if trial.is_rerun:
            raise UserError(
                f"--trial {number}: it is a re-run, without which there is no result; the command "
                "`stop` stops its worker"
            )
        may_go_on = trial.paused is not None or (trial.rung is not None and is_promoting)
        if trial.state == TrialState.WAITING:
            begin_trial(connection, trial.trial_id)
        elif trial.state == TrialState.PRUNED and may_go_on:
            epoch = trial.rung or trial.paused
            dropped = RUNG, PAUSED, CUTOFF, REASON, SECONDS
            reopen_trial(connection, trial.trial_id, {REOPENED: epoch}, dropped)
        elif trial.state != TrialState.RUNNING:
            raise UserError(f"--trial {number}: it is {trial.state.name} and will not go on")
        # The lease first: its worker can then record no other epoch.
        leases.drop(connection, study.key, {number})
        mine = epochs.c.study_key == study.key, epochs.c.trial == number
        last = select(epochs.c.metrics).where(*mine).order_by(epochs.c.number.desc()).limit(1)
        metrics = connection.execute(last).scalar_one_or_none()
        value = None if metrics is None else float(metrics[definition["metric"]])
        state = TrialState.FAIL if value is None else TrialState.PRUNED
        attributes = {REASON: WHY, CANCELED: True}
        if not end_trial(connection, trial.trial_id, state, value, attributes):
            raise UserError(f"--trial {number}: another program has just ended it")
    return trial.state


def stop_within(connection: Connection, study: StudyRef) -> None:
    """As `stop`, in the caller's transaction, under the study's lock."""
    asked = read(connection, study.key)
    _write(connection, study, replace(asked, stopped_at=now(connection)))


def _write(connection: Connection, study: StudyRef, steering: Steering) -> None:
    connection.execute(delete(table).where(table.c.study_key == study.key))
    connection.execute(
        insert(table).values(
            study_key=study.key,
            is_paused=steering.is_paused,
            stopped_at=steering.stopped_at,
        )
    )
