"""Which trials a study has, by state and by rank, each asked of the database in one query.

Optuna's own list of trials takes longer the more of them have finished. What is decided under the
study's lock, at a rung, or at a trial's end is asked here instead, of Optuna's tables and ours.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, func, select

from search import tables
from search.choices import Value
from search.tables import selection_accuracy
from search.trials import FINISHED, FIXING, name_of

_trials = TrialModel.__table__
_attributes = TrialUserAttributeModel.__table__
_epochs = tables.epochs


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trial, as far as it matters to who may run it."""

    trial_id: int
    number: int
    state: TrialState
    name: str | None
    """Of a fixed trial, see `search.trials.fixed_name`; None for the others."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A completed trial among the others."""

    trial_id: int
    number: int
    accuracy: float


def counts(connection: Connection, study_id: int) -> Counter[TrialState]:
    """Return how many trials of the study are in each state."""
    query = select(_trials.c.state, func.count()).where(_trials.c.study_id == study_id)
    rows = connection.execute(query.group_by(_trials.c.state)).all()
    return Counter(dict(map(tuple, rows)))


def unfinished(connection: Connection, study_id: int) -> list[Entry]:
    """Return the trials that do not count against the budget, failed ones too, by number."""
    own = _trials.c.study_id == study_id
    return _entries(connection, own & _trials.c.state.not_in(FINISHED))


def fixed(connection: Connection, study_id: int) -> list[Entry]:
    """Return the fixed trials in all states, by number."""
    having = select(_attributes.c.trial_id).where(_attributes.c.key.in_(FIXING))
    own = _trials.c.study_id == study_id
    found = _entries(connection, own & _trials.c.trial_id.in_(having))
    return [entry for entry in found if entry.name is not None]


def entry(connection: Connection, trial_id: int) -> Entry:
    """Return the trial of that id."""
    (found,) = _entries(connection, _trials.c.trial_id == trial_id)
    return found


def best(connection: Connection, study_id: int, *, epochs: int, n: int) -> list[Place]:
    """Return the `n` best completed trials, in the order of `search.trials.ranked`.

    `epochs` is after how many of them a trial of the study is complete.
    """
    query = (
        select(_trials.c.trial_id, _trials.c.number, selection_accuracy)
        .join_from(_epochs, _trials, _trials.c.trial_id == _epochs.c.trial_id)
        .where(_at(study_id, epochs), _trials.c.state == TrialState.COMPLETE)
        .order_by(selection_accuracy.desc(), _trials.c.number)
        .limit(n)
    )
    rows = connection.execute(query)
    return [Place(trial_id=row[0], number=row[1], accuracy=row[2]) for row in rows]


def standing(
    connection: Connection, study_id: int, *, trial_id: int, epoch: int, accuracy: float
) -> tuple[int, int]:
    """Return how many other trials recorded `epoch` before this one did, and how many of them did
    better than `accuracy`."""
    others = _before(study_id, trial_id, epoch)
    n = select(func.count()).where(others).scalar_subquery()
    n_better = select(func.count()).where(others, selection_accuracy > accuracy).scalar_subquery()
    row = connection.execute(select(n, n_better)).one()
    return row[0], row[1]


def accuracies(
    connection: Connection, study_id: int, *, trial_id: int, epoch: int, n: int
) -> Sequence[float]:
    """Return the `n` highest accuracies after `epoch` of other trials that recorded it before this
    one did, the highest first."""
    others = _before(study_id, trial_id, epoch)
    query = select(selection_accuracy).where(others).order_by(selection_accuracy.desc()).limit(n)
    return connection.scalars(query).all()


def _at(study_id: int, epoch: int) -> ColumnElement[bool]:
    return (_epochs.c.study_id == study_id) & (_epochs.c.number == epoch)


def _before(study_id: int, trial_id: int, epoch: int) -> ColumnElement[bool]:
    """Select what was recorded of `epoch` before `trial_id` recorded it, as it has."""
    own = _epochs.alias()
    mine = own.c.trial_id == trial_id, own.c.number == epoch
    place = select(own.c.id).where(*mine).scalar_subquery()
    return _at(study_id, epoch) & (_epochs.c.id < place)


def _entries(connection: Connection, which: ColumnElement[bool]) -> list[Entry]:
    fixing = (_attributes.c.trial_id == _trials.c.trial_id) & _attributes.c.key.in_(FIXING)
    query = (
        select(_trials.c["trial_id", "number", "state"], _attributes.c["key", "value_json"])
        .outerjoin_from(_trials, _attributes, fixing)
        .where(which)
        .order_by(_trials.c.number)
    )
    found: dict[tuple[int, int, TrialState], dict[str, Value]] = {}
    for trial_id, number, state, key, value in connection.execute(query):
        attributes = found.setdefault((trial_id, number, state), {})
        if key is not None:
            attributes[key] = json.loads(value)
    return [
        Entry(trial_id=trial_id, number=number, state=state, name=name_of(attributes))
        for (trial_id, number, state), attributes in found.items()
    ]
