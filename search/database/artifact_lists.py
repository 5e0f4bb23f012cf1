"""Which files Optuna's dashboard offers with a trial.

Optuna keeps that list among the trial's system attributes, and it is written here by SQL, since its
own functions cannot do what is needed: `optuna.artifacts.upload_artifact` commits by itself and
draws a new id each time, so that a trial taken over between its two steps would have a file too
many in its list. Optuna also refuses to change the attributes of a trial that has ended, and what
the dashboard does instead, to set them to null, is what `optuna.artifacts.get_all_artifact_meta`
stumbles over.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState
from sqlalchemy import Connection, delete, func, insert, select

from search.database import optuna_internals
from search.database.optuna_internals import ARTIFACT, artifact_meta
from search.database.queries import StudyRef
from search.database.tables import weights

_attributes = optuna_internals.trial_system_attributes
_trials = optuna_internals.trials


@dataclass(frozen=True, kw_only=True)
class File:
    """One of a trial's files, as a dashboard offers it."""

    artifact_id: str
    filename: str
    """Under which it is downloaded."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What is to be listed of a trial's files, in place of what was."""

    trial_id: int
    prefix: str
    """Of the ids of all the trial's files; others are of users who uploaded them."""
    files: Sequence[File] = ()


def replace(connection: Connection, listed: Listed) -> list[str]:
    """List what `listed` says, and return the ids that are not listed any more."""
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


def n_listing(connection: Connection, artifact_id: str) -> int:
    """Return how many studies and trials list the artifact: a copied study lists its original's."""
    key = ARTIFACT + artifact_id
    counts = [
        select(func.count()).where(table.c.key == key).scalar_subquery()
        for table in (_attributes, optuna_internals.study_system_attributes)
    ]
    return sum(connection.execute(select(*counts)).one())


def remove_stale(connection: Connection, study: StudyRef, prefix: str) -> None:
    """Remove the files of ended trials that are not kept weights; `prefix` is of the study's ids.

    One statement: what a trial lists that begins meanwhile is not touched.
    """
    ended = _trials.c.study_id == study.study_id, _trials.c.state != TrialState.RUNNING
    kept = weights.c.study_key == study.key
    connection.execute(
        delete(_attributes).where(
            _attributes.c.trial_id.in_(select(_trials.c.trial_id).where(*ended)),
            _attributes.c.key.startswith(ARTIFACT + prefix),
            _attributes.c.key.not_in(select(ARTIFACT + weights.c.artifact_id).where(kept)),
        )
    )
