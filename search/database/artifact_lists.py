"""The list of files that Optuna's dashboard offers with a trial.

Optuna stores the list in the trial's system attributes. It is written here with SQL, for two
reasons. `optuna.artifacts.upload_artifact` commits by itself and creates a new id each time, so a
trial that is taken over in between would list a file twice. And Optuna does not change attributes
of finished trials; the dashboard sets them to null instead, which
`optuna.artifacts.get_all_artifact_meta` cannot read.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState
from sqlalchemy import Connection, delete, func, insert, select, update

from search.database import optuna_internals
from search.database.optuna_internals import ARTIFACT, artifact_meta
from search.database.queries import StudyRef
from search.database.tables import weights

_attributes = optuna_internals.trial_system_attributes
_trials = optuna_internals.trials


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a trial, as the dashboard offers it."""

    artifact_id: str
    filename: str
    """Name for downloads."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The new list of a trial's files."""

    trial_id: int
    prefix: str
    """Prefix of the ids of the trial's own files; others were uploaded by users."""
    files: Sequence[File] = ()


def replace(connection: Connection, listed: Listed) -> list[str]:
    """Replace the list, and return the ids that are no longer listed."""
    before = connection.scalars(
        delete(_attributes)
        .where(
            _attributes.c.trial_id == listed.trial_id,
            _attributes.c.key.startswith(ARTIFACT + listed.prefix),
        )
        .returning(_attributes.c.key)
    ).all()
    for file in listed.files:
        connection.execute(
            insert(_attributes).values(
                trial_id=listed.trial_id,
                key=ARTIFACT + file.artifact_id,
                value_json=json.dumps(artifact_meta(file.artifact_id, file.filename)),
            )
        )
    were = {key.removeprefix(ARTIFACT) for key in before}
    return sorted(were - {file.artifact_id for file in listed.files})


def remove(connection: Connection, trial_id: int, artifact_ids: Collection[str]) -> None:
    keys = [ARTIFACT + one for one in artifact_ids]
    connection.execute(
        delete(_attributes).where(_attributes.c.trial_id == trial_id, _attributes.c.key.in_(keys))
    )


def rename(connection: Connection, study: StudyRef, before: str, after: str) -> None:
    """Give the files of the study's trials, and its kept weights, ids with the prefix `after`
    instead of `before`."""
    of_study = select(_trials.c.trial_id).where(_trials.c.study_id == study.study_id)
    own = _attributes.c.trial_system_attribute_id
    query = select(_attributes).where(
        _attributes.c.trial_id.in_(of_study), _attributes.c.key.startswith(ARTIFACT + before)
    )
    for row_id, _, key, value in connection.execute(query).all():
        renamed = {
            "key": key.replace(before, after, 1),
            "value_json": value.replace(before, after, 1),  # which holds the id too
        }
        connection.execute(update(_attributes).where(own == row_id).values(renamed))
    mine = weights.c.study_key == study.key
    kept = select(weights.c.trial, weights.c.artifact_id).where(mine)
    for trial, artifact_id in connection.execute(kept).all():
        connection.execute(
            update(weights)
            .where(mine, weights.c.trial == trial)
            .values(artifact_id=artifact_id.replace(before, after, 1))
        )


def n_listing(connection: Connection, artifact_id: str) -> int:
    """Return how many studies and trials list the artifact; copies list their original's files."""
    key = ARTIFACT + artifact_id
    counts = [
        select(func.count()).where(table.c.key == key).scalar_subquery()
        for table in (_attributes, optuna_internals.study_system_attributes)
    ]
    return sum(connection.execute(select(*counts)).one())


def listed(connection: Connection, study: StudyRef, prefix: str) -> set[str]:
    """Return the ids with this prefix that the study's trials list."""
    query = (
        select(_attributes.c.key)
        .join(_trials, _trials.c.trial_id == _attributes.c.trial_id)
        .where(_trials.c.study_id == study.study_id)
        .where(_attributes.c.key.startswith(ARTIFACT + prefix))
    )
    return {key.removeprefix(ARTIFACT) for key in connection.scalars(query)}


def remove_stale(
    connection: Connection, study: StudyRef, prefix: str, *, resumable: Collection[int]
) -> list[str]:
    """Remove all files of finished trials but kept weights, and return their ids; `prefix` is that
    of the study's ids. Trials with the numbers `resumable` count as unfinished.

    A single statement, so that a trial that starts meanwhile is not affected.
    """
    ended = select(_trials.c.trial_id).where(
        _trials.c.study_id == study.study_id,
        _trials.c.state != TrialState.RUNNING,
        _trials.c.number.not_in(resumable),
    )
    kept = weights.c.study_key == study.key
    removed = connection.scalars(
        delete(_attributes)
        .where(
            _attributes.c.trial_id.in_(ended),
            _attributes.c.key.startswith(ARTIFACT + prefix),
            _attributes.c.key.not_in(select(ARTIFACT + weights.c.artifact_id).where(kept)),
        )
        .returning(_attributes.c.key)
    ).all()
    return [key.removeprefix(ARTIFACT) for key in removed]
