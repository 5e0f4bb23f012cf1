"""Finds a study by name, and decides whether this service made it.

Each study has a key, stored in its user attributes and, with Optuna's id, in
`search.database.tables.studies`. The two must agree. Optuna's tools copy attributes, so a copied
study has the original's key but none of the rows recorded under it. The dashboard renames a study
by copying it and deleting the original; such a copy takes the original's place.

This module only reads, and does not need the service's tables: a study that something else made is
refused before anything is written.
"""

import json
from dataclasses import dataclass
from typing import Any

import optuna
from sqlalchemy import Connection, Row, func, literal, select
from sqlalchemy.exc import DataError

from search.database import optuna_internals, tables
from search.database.dialects import visible_tables
from search.database.outage import first_line
from search.database.queries import StudyRef
from search.errors import UserError

KEY = "key"
"""User attribute of a study: its key."""
DEFINITION = "definition"
"""User attribute of a study: its definition."""

_rows = tables.studies
_studies = optuna_internals.studies
_trials = optuna_internals.trials


class NotOurs(UserError):
    """The study of a name was not made by this service, is a copy, or was changed by others."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"study {name}: the study of this name {why}")
        self.name, self.why = name, why


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A study that this service made."""

    ref: StudyRef
    is_created: bool
    """Whether it was created completely, including its definition."""
    is_renamed: bool
    """Whether it replaces the renamed study that its rows were recorded for."""


def study_ref(study: optuna.Study) -> StudyRef:
    """Return the reference under which rows are stored for a study of this service."""
    return StudyRef(study_id=optuna_internals.study_id(study), key=str(study.user_attrs[KEY]))


def identify(connection: Connection, name: str) -> Identified | None:
    """Return the study called `name`; None if there is none.

    Raises:
        NotOurs: the study was not made by this service, is a copy, or was changed by others.
        UserError: the database cannot store this name.
    """
    try:  # also in an empty database
        connection.scalar(select(literal(name)))
    except DataError as error:
        raise UserError(
            f"study {name}: the database's encoding does not have all of its characters "
            f"({first_line(error)}); give another name, or a database whose encoding is UTF8"
        ) from error
    there = visible_tables(connection)
    if _studies.name not in there:
        return None
    study_id = connection.scalar(select(_studies.c.study_id).where(_studies.c.study_name == name))
    if study_id is None:
        return None
    key = _key_of(connection, study_id)
    row = None
    if _rows.name in there:
        mine = _rows.c.study_key == key
        if key is None:  # a process was killed while creating the study
            mine = (_rows.c.name == name) & _rows.c.study_id.is_(None)
        row = connection.execute(select(_rows).where(mine)).one_or_none()
    if row is None or (key is None and not _is_new(connection, study_id)):
        if key is None:
            why = "was not made by this service"
        else:
            why = "was copied from another database, without its epochs and weights"
        raise NotOurs(name, why)
    is_renamed = row.study_id not in (None, study_id)
    if is_renamed:
        _check_renamed(connection, name, study_id, row)
    if row.study_id is not None:
        definition = _attribute(connection, study_id, DEFINITION)
        if not isinstance(definition, dict) or not isinstance(definition.get("epochs"), int):
            raise NotOurs(
                name, f"has another user attribute {DEFINITION!r} than this service gave it"
            )
    ref = StudyRef(study_id=study_id, key=row.study_key)
    return Identified(ref=ref, is_created=row.study_id is not None, is_renamed=is_renamed)


def _key_of(connection: Connection, study_id: int) -> str | None:
    key = _attribute(connection, study_id, KEY)
    return None if key is None else str(key)


def _attribute(connection: Connection, study_id: int, name: str) -> Any:
    """Return a user attribute of the study; None if it is not set."""
    there = optuna_internals.study_user_attributes.c
    query = select(there.value_json).where(there.study_id == study_id, there.key == name)
    text = connection.scalar(query)
    return None if text is None else json.loads(text)


def _is_new(connection: Connection, study_id: int) -> bool:
    """Return whether the study is in the state in which this service creates it."""
    of_studies = optuna_internals.study_directions.c
    directions = connection.scalars(
        select(of_studies.direction).where(of_studies.study_id == study_id)
    ).all()
    n_trials = connection.scalar(select(func.count()).where(_trials.c.study_id == study_id))
    return len(directions) == 1 and n_trials == 0


def _check_renamed(connection: Connection, name: str, study_id: int, row: Row[Any]) -> None:
    """Refuse a copy whose original exists, or whose trials differ from the recorded ones."""
    original = connection.scalar(
        select(_studies.c.study_name).where(_studies.c.study_id == row.study_id)
    )
    if original is not None and _key_of(connection, row.study_id) == row.study_key:
        raise NotOurs(name, f"is a copy of {original}, without its epochs and weights")
    epochs, values = tables.epochs, optuna_internals.intermediate_values
    reported = values.c.intermediate_value  # a score may be negated
    recorded = (
        select(func.count())
        .select_from(epochs)
        .outerjoin(_trials, (_trials.c.number == epochs.c.trial) & (_trials.c.study_id == study_id))
        .outerjoin(
            values, (values.c.trial_id == _trials.c.trial_id) & (values.c.step == epochs.c.number)
        )
        .where(epochs.c.study_key == row.study_key)
        .where(_trials.c.trial_id.is_(None) | (func.abs(reported) != func.abs(epochs.c.score)))
    )
    if connection.scalar(recorded):
        raise NotOurs(
            name,
            f"is a copy of {row.name}, which is gone, and its trials are not those that were "
            "recorded",
        )
