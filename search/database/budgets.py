"""The stored budget of a study, what its confirmation takes of it, and whether a search ends before
it is spent."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection

from search.database import queries
from search.database.database import Database
from search.database.identity import DEFINITION, study_ref
from search.database.queries import StudyRef
from search.errors import UserError
from search.study.budget import Budget
from search.study.confirmation import Confirmation
from search.study.metrics import Objective, number
from search.study.study import is_finite, is_whole

BUDGET = "budget"
"""User attribute of a study: its budget, the study file's budget at that time, and the confirmation
that the search ends with."""


def agree_on_budget(
    database: Database,
    joined: optuna.Study,
    *,
    of_file: Budget,
    asked: Mapping[str, Any],
    has_enqueued: bool,
    confirm: Confirmation | None = None,
) -> Budget:
    """Return the study's budget, and store it and the confirmation for later commands.

    `asked` are the fields of the budget that the user gives: trials and epochs replace both of
    these, the others each its own. Without them the budget stays the same, unless that of the study
    file, `of_file`, has changed. If the user `has_enqueued` trials, the budget is raised to make
    room for all existing trials.
    """
    ref = study_ref(joined)
    with database.lock(ref.key) as connection:
        stored = joined.user_attrs.get(BUDGET)
        kept = stored_budget(joined)
        if not isinstance(stored, dict) or parsed(stored.get("of_file")) != of_file:
            kept = None
        budget = (kept or of_file).changed(asked)
        if has_enqueued:
            budget = _with_room(connection, joined, budget, confirm)
        now = {
            **asdict(budget),
            "of_file": asdict(of_file),
            "confirm": None if confirm is None else asdict(confirm),
        }
        if now != stored:
            joined.set_user_attr(BUDGET, now)
    return budget


def stored_budget(joined: optuna.Study) -> Budget | None:
    """Return what `agree_on_budget` stored; None if it was overwritten."""
    return parsed(joined.user_attrs.get(BUDGET))


def stored_confirmation(joined: optuna.Study) -> Confirmation | None:
    """Return the confirmation that the search ends with; None if there is none, or if it was
    overwritten."""
    stored = joined.user_attrs.get(BUDGET)
    confirm = stored.get("confirm") if isinstance(stored, dict) else None
    if isinstance(confirm, dict):
        with suppress(TypeError, UserError):
            return Confirmation(**confirm)
    return None


def search_budget(joined: optuna.Study) -> Budget | None:
    """Return what the confirmation leaves of the stored budget; None if that was overwritten."""
    budget, confirm = stored_budget(joined), stored_confirmation(joined)
    if budget is not None and confirm is not None:
        with suppress(UserError):  # a search with this confirmation was refused
            return confirm.left_for_search(budget, int(joined.user_attrs[DEFINITION]["epochs"]))
    return budget


def parsed(stored: object) -> Budget | None:
    """Return the budget that the value of the user attribute holds; None if it is not one."""
    if not isinstance(stored, dict):
        return None
    found = {one.name: stored.get(one.name) for one in fields(Budget)}
    target = found["target"]
    whole = [value for name, value in found.items() if name != "target" and value is not None]
    if not all(is_whole(number) and number > 0 for number in whole):
        return None
    if target is not None and not is_finite(target):
        return None
    budget = Budget(**found)
    return budget if budget.is_limited else None


def _with_room(
    connection: Connection, joined: optuna.Study, budget: Budget, confirm: Confirmation | None
) -> Budget:
    """Return the budget, or a larger one that has room for all existing trials, beside the
    confirmation."""
    trials = [
        trial for trial in joined.get_trials(deepcopy=False) if trial.state != TrialState.FAIL
    ]
    if budget.trials is not None:
        budget = replace(budget, trials=max(budget.trials, len(trials)))
    if budget.epochs is not None:
        unfinished = {trial.number for trial in trials if not trial.state.is_finished()}
        each = int(joined.user_attrs[DEFINITION]["epochs"])
        needed = queries.n_epochs(connection, study_ref(joined), but=unfinished)
        needed += each * (len(unfinished) + (confirm.runs if confirm is not None else 0))
        budget = replace(budget, epochs=max(budget.epochs, needed))
    return budget


def early_end(
    connection: Connection, study: StudyRef, budget: Budget, *, objective: Objective, epochs: int
) -> str | None:
    """Return why a search ends before `budget` is spent; None if it does not.

    `objective` and `epochs` are the study's.
    """
    if not budget.ends_early_with:
        return None
    found = queries.best(connection, study, epochs=epochs, n=1)
    if not found:
        return None
    best = found[0]
    value = f"{objective.words} {number(objective.score(best.score))}"
    if budget.target is not None and best.score >= objective.score(budget.target):
        return f"trial {best.number} reached the target {number(budget.target)} with {value}"
    if budget.patience is not None:
        since = queries.n_finished_since(connection, study, best)
        if since >= budget.patience:
            return (
                f"{since} trials have finished since trial {best.number} completed with {value}, "
                "and none is better"
            )
    return None
