"""Queries for the trials of a study, by state and by rank.

Optuna's own list of trials takes longer the more trials have finished. Decisions under the study's
lock, at a rung, or at the end of a trial use these queries instead, on Optuna's tables and ours.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, func, not_, select

from search.database import optuna_internals, tables
from search.database.optuna_internals import FIXED_PARAMS
from search.study.space import Value
from search.study.trial_attributes import (
    AUDITED,
    CANCELED,
    ENQUEUED,
    FINISHED,
    FIXED_TRIAL_ATTRIBUTES,
    PAUSED,
    REOPENED,
    REPEAT,
    RUNG,
    is_first_run,
    is_readable,
    name_of,
)

_trials = optuna_internals.trials
_attributes = optuna_internals.trial_user_attributes
_system_attributes = optuna_internals.trial_system_attributes
_params = optuna_internals.trial_params
_epochs = tables.epochs


@dataclass(frozen=True, kw_only=True)
class StudyRef:
    """Identifies a study of this service in the database."""

    study_id: int
    """Id in Optuna's tables."""
    key: str
    """Key in the service's own tables; never changed or reused."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trial, with what decides whether a worker may run it."""

    trial_id: int
    number: int
    state: TrialState
    name: str | None
    """Name of a fixed trial, see `search.study.trial_attributes.fixed_name`; None for others."""
    is_enqueued: bool
    """Whether a user enqueued it with `--enqueue`."""
    is_first_run: bool
    """Whether it is a variant, or the first re-run of one."""
    is_rerun: bool
    is_canceled: bool
    """Whether a user has ended it for good."""
    is_competing: bool
    """Whether it is sampled, and so compared with others on the rungs."""
    rung: int | None
    """The rung at which it was pruned."""
    paused: int | None
    """The epoch at which the budget cut it short."""
    reopened: int
    """The epoch after which it went on last, though it had been pruned; 0 if it never was."""
    audited: int | None
    """The epoch at which it was pruned, if an audit runs it to its end."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A completed trial and its score."""

    trial_id: int
    number: int
    score: float


def is_there(connection: Connection, study: StudyRef) -> bool:
    """Return whether the study still exists; Optuna's tools can delete it."""
    studies = optuna_internals.studies.c
    query = select(studies.study_id).where(studies.study_id == study.study_id)
    return connection.scalar(query) is not None


def counts(connection: Connection, study: StudyRef) -> Counter[TrialState]:
    """Return the number of trials of the study in each state."""
    query = select(_trials.c.state, func.count()).where(_trials.c.study_id == study.study_id)
    rows = connection.execute(query.group_by(_trials.c.state)).all()
    return Counter(dict(map(tuple, rows)))


def n_epochs(connection: Connection, study: StudyRef, *, but: Collection[int] = ()) -> int:
    """Return the number of recorded epochs of all trials except the numbers `but`, without those of
    audits."""
    query = select(func.count()).where(_epochs.c.study_key == study.key, not_(_epochs.c.is_audit))
    return connection.scalar(query.where(_epochs.c.trial.not_in(but))) or 0


def n_epochs_of(connection: Connection, study: StudyRef, trial: int) -> int:
    """Return the number of recorded epochs of a trial."""
    its = (_epochs.c.study_key == study.key) & (_epochs.c.trial == trial)
    return connection.scalar(select(func.count()).where(its)) or 0


def unfinished(connection: Connection, study: StudyRef) -> list[Entry]:
    """Return the trials that do not count against the budget, including failed ones, by number."""
    own = _trials.c.study_id == study.study_id
    return _entries(connection, own & _trials.c.state.not_in(FINISHED))


def cut_short(connection: Connection, study: StudyRef) -> list[Entry]:
    """Return the trials that the budget has cut short, by number."""
    return _pruned_with(connection, study, PAUSED)


def stopped_at_a_rung(connection: Connection, study: StudyRef) -> list[Entry]:
    """Return the trials that were pruned for their metric, by number."""
    return _pruned_with(connection, study, RUNG)


def _pruned_with(connection: Connection, study: StudyRef, attribute: str) -> list[Entry]:
    having = select(_attributes.c.trial_id).where(_attributes.c.key == attribute)
    own = _trials.c.study_id == study.study_id
    pruned = _trials.c.state == TrialState.PRUNED
    return _entries(connection, own & pruned & _trials.c.trial_id.in_(having))


def fixed(connection: Connection, study: StudyRef) -> list[Entry]:
    """Return the fixed trials in any state, by number."""
    having = select(_attributes.c.trial_id).where(_attributes.c.key.in_(FIXED_TRIAL_ATTRIBUTES))
    own = _trials.c.study_id == study.study_id
    found = _entries(connection, own & _trials.c.trial_id.in_(having))
    return [entry for entry in found if entry.name is not None]


def entry(connection: Connection, trial_id: int) -> Entry:
    """Return the trial with this id."""
    (found,) = _entries(connection, _trials.c.trial_id == trial_id)
    return found


def entries(connection: Connection, study: StudyRef, numbers: Collection[int]) -> list[Entry]:
    """Return the trials with these numbers, in order."""
    if not numbers:
        return []
    own = _trials.c.study_id == study.study_id
    return _entries(connection, own & _trials.c.number.in_(numbers))


def given_values(
    connection: Connection, trial_id: int
) -> tuple[Mapping[str, Value], Mapping[str, BaseDistribution]]:
    """Return the sampled and enqueued values of an unfinished trial, and the distributions of the
    sampled ones. Other tools may have written them.

    Raises:
        ValueError: the enqueued values are not a dict.
    """
    given = select(_system_attributes.c.value_json).where(
        _system_attributes.c.trial_id == trial_id, _system_attributes.c.key == FIXED_PARAMS
    )
    values: dict[str, Value] = json.loads(connection.scalar(given) or "{}")
    if not isinstance(values, dict):
        raise ValueError(f"{FIXED_PARAMS} is a dict, not {values!r}")
    stored = select(_params.c["param_name", "param_value", "distribution_json"])
    distributions = {}
    for name, value, distribution in connection.execute(
        stored.where(_params.c.trial_id == trial_id)
    ):
        distributions[name] = json_to_distribution(distribution)
        values[name] = distributions[name].to_external_repr(value)
    return values, distributions


def best(connection: Connection, study: StudyRef, *, epochs: int, n: int) -> list[Place]:
    """Return the `n` best completed trials, best first; ties go to the earlier trial.

    `epochs` is the number of epochs of a complete trial. Trials are ranked by recorded scores, not
    by the values in Optuna's tables, which other tools may have written.
    """
    query = (
        select(_trials.c.trial_id, _trials.c.number, _epochs.c.score)
        .join_from(_epochs, _trials, _trials.c.number == _epochs.c.trial)
        .where(
            _at(study, epochs),
            _trials.c.study_id == study.study_id,
            _trials.c.state == TrialState.COMPLETE,
        )
        .order_by(_epochs.c.score.desc(), _trials.c.number)
        .limit(n)
    )
    rows = connection.execute(query)
    return [Place(trial_id=row[0], number=row[1], score=row[2]) for row in rows]


def n_finished_since(connection: Connection, study: StudyRef, place: Place) -> int:
    """Return the number of other finished trials, without canceled ones, that recorded an epoch
    after the last one of the completed trial at `place`."""
    mine = _epochs.c.study_key == study.key, _epochs.c.trial == place.number
    end = select(func.max(_epochs.c.id)).where(*mine).scalar_subquery()
    canceled = select(_attributes.c.trial_id).where(_attributes.c.key == CANCELED)
    query = (
        select(func.count(_epochs.c.trial.distinct()))
        .join_from(_epochs, _trials, _trials.c.number == _epochs.c.trial)
        .where(
            _epochs.c.study_key == study.key,
            _epochs.c.id > end,
            not_(_epochs.c.is_audit),
            _trials.c.study_id == study.study_id,
            _trials.c.state.in_(FINISHED),
            _trials.c.trial_id.not_in(canceled),
        )
    )
    return connection.scalar(query) or 0


def n_on_rung(connection: Connection, study: StudyRef, epoch: int) -> int:
    """Return the number of competing trials that recorded `epoch`."""
    query = select(func.count()).where(_at(study, epoch), _competes(study))
    return connection.scalar(query) or 0


def best_on_rung(
    connection: Connection, study: StudyRef, epoch: int, *, n: int, loss: str | None
) -> Sequence[int]:
    """Return the numbers of the `n` competing trials that are best after `epoch`, best first; ties
    go to the earlier trial.

    The best have the highest scores, or the lowest values of the metric `loss`.
    """
    best = _epochs.c.score.desc()
    if loss is not None:  # which trials lack that were begun under another pruner
        best = _epochs.c.metrics[loss].as_float().nulls_last()
    query = select(_epochs.c.trial).where(_at(study, epoch), _competes(study))
    return connection.scalars(query.order_by(best, _epochs.c.trial).limit(n)).all()


def standing(
    connection: Connection, study: StudyRef, *, trial: int, epoch: int, score: float
) -> tuple[int, int]:
    """Return the number of other competing trials that recorded `epoch` before this one, and how
    many of them exceed `score`."""
    others = _before(study, trial, epoch) & _competes(study)
    n = select(func.count()).where(others).scalar_subquery()
    n_better = select(func.count()).where(others, _epochs.c.score > score).scalar_subquery()
    row = connection.execute(select(n, n_better)).one()
    return row[0], row[1]


def scores(
    connection: Connection, study: StudyRef, *, trial: int, epoch: int, n: int
) -> Sequence[float]:
    """Return the `n` highest scores after `epoch` among other competing trials that recorded it
    before this one, highest first."""
    others = _before(study, trial, epoch) & _competes(study)
    query = select(_epochs.c.score).where(others).order_by(_epochs.c.score.desc()).limit(n)
    return connection.scalars(query).all()


def _at(study: StudyRef, epoch: int) -> ColumnElement[bool]:
    return (_epochs.c.study_key == study.key) & (_epochs.c.number == epoch)


def _competes(study: StudyRef) -> ColumnElement[bool]:
    """Select the rows of sampled trials, neither fixed nor enqueued, before an audit of them."""
    named = select(_attributes.c.trial_id).where(_attributes.c.key.in_(FIXED_TRIAL_ATTRIBUTES))
    given = select(_system_attributes.c.trial_id).where(_system_attributes.c.key == FIXED_PARAMS)
    spared = _trials.c.trial_id.in_(named) | _trials.c.trial_id.in_(given)
    numbers = select(_trials.c.number).where(_trials.c.study_id == study.study_id, spared)
    return _epochs.c.trial.not_in(numbers) & not_(_epochs.c.is_audit)


def _before(study: StudyRef, trial: int, epoch: int) -> ColumnElement[bool]:
    """Select the rows of `epoch` that were recorded before the row of `trial`."""
    own = _epochs.alias()
    mine = own.c.study_key == study.key, own.c.trial == trial, own.c.number == epoch
    place = select(own.c.id).where(*mine).scalar_subquery()
    return _at(study, epoch) & (_epochs.c.id < place)


def _entries(connection: Connection, which: ColumnElement[bool]) -> list[Entry]:
    telling = _attributes.c.key.in_(
        FIXED_TRIAL_ATTRIBUTES | {ENQUEUED, RUNG, PAUSED, REOPENED, AUDITED, CANCELED}
    )
    given = (
        select(_system_attributes.c.trial_id)
        .where(
            _system_attributes.c.trial_id == _trials.c.trial_id,
            _system_attributes.c.key == FIXED_PARAMS,
        )
        .exists()
    )
    query = (
        select(
            _trials.c["trial_id", "number", "state"],
            given.label("is_given"),
            _attributes.c["key", "value_json"],
        )
        .outerjoin_from(
            _trials, _attributes, (_attributes.c.trial_id == _trials.c.trial_id) & telling
        )
        .where(which)
        .order_by(_trials.c.number)
    )
    found: dict[tuple[int, int, TrialState, bool], dict[str, Value]] = {}
    for trial_id, number, state, is_given, key, value in connection.execute(query):
        attributes = found.setdefault((trial_id, number, state, bool(is_given)), {})
        if key is not None and is_readable(key, stored := json.loads(value)):
            attributes[key] = stored
    return [
        Entry(
            trial_id=trial_id,
            number=number,
            state=state,
            name=name_of(attributes),
            is_enqueued=ENQUEUED in attributes,
            is_first_run=is_first_run(attributes),
            is_rerun=REPEAT in attributes,
            is_canceled=CANCELED in attributes,
            is_competing=not is_given and name_of(attributes) is None,
            rung=_epoch(attributes, RUNG),
            paused=_epoch(attributes, PAUSED),
            reopened=_epoch(attributes, REOPENED) or 0,
            audited=_epoch(attributes, AUDITED),
        )
        for (trial_id, number, state, is_given), attributes in found.items()
    ]


def _epoch(attributes: Mapping[str, Value], name: str) -> int | None:
    value = attributes.get(name)
    return value if isinstance(value, int) else None
