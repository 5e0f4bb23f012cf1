"""What a study's sampler knows of other studies: copies of their finished trials.

They are copied once, so that suggestions depend on nothing that changes. They are no trials of the
study: they take no place of its budget, and no place on a rung.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import func, insert, select

from search.database.database import Database
from search.database.identity import DEFINITION
from search.database.queries import StudyRef
from search.database.redefinition import redefinitions
from search.database.snapshot import Overview
from search.database.studies import stored_definition, study_called
from search.database.tables import knowledge as table
from search.errors import UserError
from search.study.definition import Definition, changed, history, is_redefinable
from search.study.space import Space
from search.study.study import Study

FIRST_NUMBER = 2**31
"""The number of the first trial that is known from elsewhere, above those of the study's own."""
UNRELATED = ("seed", "diverged_as", "final_metric")
"""Settings that two studies need not share for their metrics to be comparable."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """The trials that are known from one study."""

    name: str
    """The study's name when they were copied."""
    trials: list[FrozenTrial]
    is_comparable: bool
    """Whether their metrics mean the same as the study's own; otherwise only their ranks do."""

    def __str__(self) -> str:
        by = "" if self.is_comparable else ", by their ranks"
        return f"{len(self.trials)} trials of the study {self.name}{by}"


def learn(
    database: Database, study: StudyRef, space: Space, definition: Definition, name: str
) -> None:
    """Let the study know the trials of the study called `name` that fit `space`.

    `name` has passed `check_origin`. What is known of that study already stays as it is.
    """
    origin = study_called(database, name)
    is_comparable = _is_comparable(database, definition, name)
    overview = Overview.of_study(database, name)
    with database.lock(study.key) as connection:
        mine = table.c.study_key == study.key
        from_there = select(table.c.number).where(mine, table.c.origin == origin.key).limit(1)
        if connection.scalar(from_there) is not None:
            return
        first = connection.execute(select(func.count()).where(mine)).scalar_one()
        rows = [
            {
                "study_key": study.key,
                "number": first + place,
                "origin": origin.key,
                "origin_name": name,
                "is_comparable": is_comparable,
                "trial": {
                    "state": trial.state.name,
                    "params": trial.params,
                    "values": [overview.objective.value(one) for one in overview.of(trial)],
                },
            }
            for place, trial in enumerate(_finished(overview, space, is_comparable))
        ]
        if rows:
            connection.execute(insert(table), rows)


def unlearned(database: Database, learner: str, names: Sequence[str]) -> list[str]:
    """Return the studies to learn from: all but those that were deleted after the study called
    `learner` had copied their trials."""
    there = set(optuna.get_all_study_names(database.optuna)) if names else set()
    if there >= set(names) or learner not in there:
        return list(names)
    own = study_called(database, learner)
    query = select(table.c.origin_name).where(table.c.study_key == own.key)
    with database.engine.connect() as connection:
        copied = set(connection.scalars(query))
    return [name for name in names if name in there or name not in copied]


def check_origin(database: Database, study: Study[Any], definition: Definition, name: str) -> None:
    """Check that a study can learn from the study called `name`; it need not exist yet.

    Raises:
        UserError: there is no such study, it is the study itself, it has another metric, or none of
            its finished trials fits.
    """
    study_called(database, name)
    if name == study.name:
        raise UserError(f"--from {name}: it is the study itself")
    theirs = stored_definition(database, name) or {}
    for setting in ("metric", "direction"):
        if theirs.get(setting) != definition.get(setting):
            raise UserError(
                f"--from {name}: its {setting} is {theirs.get(setting)}, and that of this study "
                f"is {definition.get(setting)}"
            )
    overview = Overview.of_study(database, name)
    is_comparable = _is_comparable(database, definition, name)
    if next(_finished(overview, study.space, is_comparable), None) is None:
        raise UserError(f"--from {name}: none of its finished trials fits the study {study.name}")


def _is_comparable(database: Database, definition: Definition, name: str) -> bool:
    """Return whether metrics of the study called `name` mean the same as under `definition`."""
    theirs = stored_definition(database, name) or {}
    apart = [one for one in changed(theirs, definition) if not is_redefinable(one)]
    return set(apart) <= set(UNRELATED)


def changes(database: Database, study: StudyRef, space: Space) -> list[str]:
    """Return the redefinitions of the study, and what its sampler knows of others, a sentence
    each."""
    definition = database.optuna.get_study_user_attrs(study.study_id)[DEFINITION]
    return [
        *history(definition, redefinitions(database, study)),
        *(f"Its sampler also learns from {one}." for one in known(database, study, space)),
    ]


def _finished(overview: Overview, space: Space, is_comparable: bool) -> Iterator[FrozenTrial]:
    for trial in overview.ended_here:
        is_known = trial.state == TrialState.COMPLETE or (is_comparable and overview.of(trial))
        if is_known and space.fitted(trial) is not None:
            yield trial


def known(database: Database, study: StudyRef, space: Space) -> list[Known]:
    """Return what the study knows of each other study, as trials of `space`."""
    query = select(table).where(table.c.study_key == study.key).order_by(table.c.number)
    found: dict[str, Known] = {}
    with database.engine.connect() as connection:
        for row in connection.execute(query):
            values = row.trial["values"]
            is_complete = row.trial["state"] == TrialState.COMPLETE.name
            trial = create_trial(
                state=TrialState[row.trial["state"]],
                value=values[-1] if is_complete else None,
                intermediate_values=dict(enumerate(values, start=1)),
            )
            trial.number = FIRST_NUMBER + row.number
            trial.params = row.trial["params"]
            empty = Known(name=row.origin_name, trials=[], is_comparable=row.is_comparable)
            of = found.setdefault(row.origin, empty)
            if (fitted := space.fitted(trial)) is not None:
                of.trials.append(fitted)
    return list(found.values())
