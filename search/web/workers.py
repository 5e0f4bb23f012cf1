"""The dashboard's page of the workers of all studies, with what steers them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from bottle import Bottle, HTTPError, HTTPResponse, request

from search.database import steering
from search.database.database import Database
from search.database.queries import StudyRef
from search.database.snapshot import Overview
from search.database.studies import study_called, with_reruns
from search.errors import UserError
from search.reporting.rendering import template
from search.reporting.status import study_row, worker_name
from search.study.metrics import number
from search.study.trial_attributes import label

PATH = "/workers"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'"
LINK = f"""<a href="{PATH}" style="position: fixed; right: 16px; bottom: 12px; z-index: 1100;
padding: 4px 12px; border-radius: 6px; background: #1976d2; color: #fff; text-decoration: none;
font: 14px system-ui, sans-serif">Workers</a>
"""
"""Leads to the page from all others."""


def add_page(app: Bottle, database: Database, *, edits: bool) -> None:
    """Add the page to the dashboard; with `edits`, it has buttons. Who may press them is decided by
    `search.web.guard`."""
    app.route(PATH, "GET", partial(_page, database, edits=edits))
    app.route(PATH, "POST", partial(_steer, database))


def _page(database: Database, *, edits: bool) -> HTTPResponse:
    names = sorted(optuna.get_all_study_names(database.optuna))
    studies = [_study(database, name) for name in names]
    text = template("workers.html").render(studies=studies, edits=edits)
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
    return HTTPResponse(text, headers=headers)


def _study(database: Database, name: str) -> dict[str, Any]:
    row = study_row(database, name)
    found: dict[str, Any] = {"name": name, "is_ours": row["metric"] != "", "running": []}
    if not found["is_ours"]:
        return found | {"text": row["state"]}
    overview = Overview.of_study(database, name)
    best = f"; best {row['metric']} {row['best']} (trial {row['best trial']})"
    for trial in overview.running:
        recorded = overview.of(trial)
        value = overview.objective.value(recorded[-1]) if recorded else None
        found["running"].append(
            {
                "number": trial.number,
                "label": label(trial),
                "epoch": f"{len(recorded)} of {overview.n_epochs}",
                "value": number(value),
                "worker": worker_name(overview.leases[trial.number]),
            }
        )
    return found | {
        "is_paused": overview.is_paused,
        "quantity": overview.objective.quantity,
        "text": f"{row['state']}; {row['trials']} trials, {row['epochs']} epochs"
        + (best if row["best"] else ""),
    }


def _steer(database: Database) -> HTTPResponse:
    """Do what a button of the page asks for, and show the page again."""
    asked = {name: request.forms.getunicode(name, "") for name in ("study", "do", "trial")}
    try:
        study = study_called(database, asked["study"])
        if asked["do"] == "cancel":
            _cancel(database, study, asked["trial"])
        else:
            steer = STEERS.get(asked["do"])
            if steer is None:
                raise UserError(f"{asked['do']!r} is not known")
            for one in with_reruns(database, study):
                steer(database, one)
    except UserError as error:
        raise HTTPError(400, str(error)) from error
    return HTTPResponse(status=303, headers={"Location": PATH})


def _cancel(database: Database, study: StudyRef, trial: str) -> None:
    if not trial.isdecimal() or len(trial) > 9:
        raise UserError(f"{trial!r} is not a trial's number")
    steering.cancel(database, study, int(trial))


STEERS: dict[str, Callable[[Database, StudyRef], None]] = {
    "stop": steering.stop,
    "pause": partial(steering.pause, is_paused=True),
    "resume": partial(steering.pause, is_paused=False),
}
