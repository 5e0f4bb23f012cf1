"""The dashboard's first page: all studies, with what is running and what steers it.

Each study leads to its note, which explains it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from bottle import Bottle, HTTPError, HTTPResponse, request

from search.database import steering
from search.database.database import Database
from search.database.leases import leases
from search.database.queries import StudyRef
from search.database.snapshot import Overview
from search.database.studies import study_called, with_reruns
from search.errors import UserError
from search.reporting.rendering import template
from search.reporting.status import RERUNS, study_row, worker_name
from search.study.metrics import number
from search.study.trial_attributes import label
from search.web.pages import POLICY, STUDIES, study_path, trial_path

OWN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'"


def add_page(app: Bottle, database: Database, *, edits: bool) -> None:
    """Add the page to the dashboard; with `edits`, it has buttons. Who may press them is decided by
    `search.web.guard`."""
    app.route(STUDIES, "GET", partial(_page, database, edits=edits))
    app.route(STUDIES, "POST", partial(_steer, database))


def _page(database: Database, *, edits: bool) -> HTTPResponse:
    names = sorted(optuna.get_all_study_names(database.optuna))
    studies = [_study(database, name) for name in names]
    text = template("studies.html").render(studies=studies, edits=edits)
    headers = {"Content-Type": "text/html; charset=utf-8", POLICY: OWN_POLICY}
    return HTTPResponse(text, headers=headers)


def _study(database: Database, name: str) -> dict[str, Any]:
    row = study_row(database, name)
    study_id = database.optuna.get_study_id_from_name(name)
    found: dict[str, Any] = {
        "name": name,
        "text": row["state"],
        "path": study_path(study_id),
        "is_ours": row["metric"] != "",
    }
    if not found["is_ours"]:
        return found
    study = study_called(database, name)
    with database.engine.connect() as connection:
        is_paused = steering.read(connection, study.key).is_paused
        is_running = bool(leases(connection, study.key))
    return found | {
        "text": f"{row['state']}; {row['trials']} trials, {row['epochs']} epochs",
        "best": f"{row['metric']} {row['best']}" if row["best"] else "",
        "best_trial": row["best trial"],
        "reruns": row[RERUNS],
        "best_path": trial_path(study_id, row["best trial"]),
        "is_paused": is_paused,
        "running": _running(database, name, study_id) if is_running else [],
    }


def _running(database: Database, name: str, study_id: int) -> list[dict[str, str]]:
    """Return the cells of a row for each running trial of a study."""
    overview = Overview.of_study(database, name)
    rows = []
    for trial in overview.running:
        recorded = overview.of(trial)
        value = overview.objective.value(recorded[-1]) if recorded else None
        rows.append(
            {
                "number": str(trial.number),
                "path": trial_path(study_id, trial.number),
                "label": label(trial),
                "epoch": f"{len(recorded)} of {overview.n_epochs}",
                "quantity": overview.objective.quantity,
                "value": number(value),
                "worker": worker_name(overview.leases[trial.number]),
            }
        )
    return rows


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
    return HTTPResponse(status=303, headers={"Location": STUDIES})


def _cancel(database: Database, study: StudyRef, trial: str) -> None:
    if not trial.isdecimal() or len(trial) > 9:
        raise UserError(f"{trial!r} is not a trial's number")
    steering.cancel(database, study, int(trial))


STEERS: dict[str, Callable[[Database, StudyRef], None]] = {
    "stop": steering.stop,
    "pause": partial(steering.pause, is_paused=True),
    "resume": partial(steering.pause, is_paused=False),
}
