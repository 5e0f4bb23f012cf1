"""Reports in Markdown and JSON, and the trials of a study alone, as CSV or JSON."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from search.analysis.answer import answer
from search.database.database import Database
from search.database.snapshot import Overview
from search.errors import UserError
from search.reporting import tables
from search.reporting.fitted_table import FittedTable
from search.reporting.rendering import template
from search.reporting.report_data import ReportData
from search.study.metrics import Epoch
from search.study.shipped import known
from search.study.space import written
from search.study.study_file import load
from search.study.trial_attributes import DIVERGED, REASON, TRACEBACK, VARIANT

COLUMNS = ("number", "variant", "state", "value", "epochs", "seconds", "reason", "told",
           "honest_mean", "honest_n")  # fmt: skip
"""The first columns of the CSV; the parameters follow. `value` is the study's metric, and empty
unless this service trained the trial to its end. `epochs` counts the recorded epochs; `seconds` is
their wall time. `told` is the outcome that another program recorded. `honest_mean` and `honest_n`
are the mean of the final metric and the number of the re-runs with fresh seeds."""


def markdown(findings: ReportData) -> str:
    """Return the report's text and tables in Markdown."""
    best = tables.best_trials(findings)
    parts = [
        (best.title, best.above, best.table),
        ("The variants", tables.compared(findings), tables.variants(findings)),
        ("Parameter importances", "", _importances(findings)),
        ("What pruning saved", "", tables.savings(findings)),
        ("How often pruning was wrong", tables.AUDIT, tables.audits(findings)),
        ("Failed and diverged trials", "", tables.failures(findings)),
        ("Finished outside the service", "", tables.told(findings)),
        ("Environments", "", tables.environments(findings)),
    ]
    return template("report.md").render(
        study=findings.study,
        answer=tables.answer(findings),
        caution=findings.caution,
        rerun=tables.rerun_command(findings),
        tables=[part for part in parts if part[2].rows],
    )


def trials(database: Database, name: str, form: str) -> str:
    """Return the trials of the study called `name`: as `csv`, with `COLUMNS`, the parameters, and a
    line for each trial; or as `json`, a list as in `as_json`."""
    overview = Overview.of_study(database, name)
    if form == "json":
        found = [_trial(overview, trial) for trial in overview.trials]
        return json.dumps(_finite(found), indent=1, allow_nan=False) + "\n"
    standings = answer(database, overview).standings
    names = dict.fromkeys(name for trial in overview.trials for name in trial.params)
    lines = io.StringIO(newline="")
    # A choice may be called like one of the other columns.
    columns_of = {name: f"params.{name}" if name in COLUMNS else name for name in names}
    columns = [*COLUMNS, *columns_of.values()]
    table = csv.DictWriter(lines, columns, lineterminator="\n")
    table.writeheader()
    for trial in overview.trials:
        row = _trial(overview, trial)
        epochs = row.pop("epochs")
        params = row.pop("params")
        row |= {columns_of[name]: value for name, value in params.items()}
        row["epochs"] = len(epochs)
        row["seconds"] = sum(epoch["seconds"] for epoch in epochs)
        if (standing := standings.get(trial.number)) is not None:
            row |= {"honest_mean": standing.honest.mean, "honest_n": standing.honest.n}
        table.writerow({name: row.get(name) for name in columns})
    return lines.getvalue()


def best_trial(database: Database, name: str, form: str, *, file: str | None = None) -> str:
    """Return the choices of the best trial of the study called `name`: as `json`, as a value of
    `--enqueue`, or as `python`, the source of the dataclass.

    `file` defines the study; None for the shipped study of this name.

    Raises:
        UserError: no trial is complete, or the dataclass is not known.
    """
    best = answer(database, Overview.of_study(database, name)).best
    if best is None:
        raise UserError(f"study {name}: no trial of it is complete yet")
    if form == "json":
        return json.dumps(best.params) + "\n"
    if form == "enqueue":
        return written(best.params) + "\n"
    if file is None and name not in known():
        raise UserError(f"--as python: give --file, the Python file that defines the study {name}")
    return repr(load(file or name).space.of(best.params)) + "\n"


def as_json(findings: ReportData) -> str:
    """Return all data as one JSON object; non-finite numbers are null. Its keys are:

    - `study`, `metric`, `direction`, `final_metric`, `epochs`, `seed`: the study; `settings`: those
      of its trainer, such as `dataset`, `images` (null for all), and `precision` if it is known.
    - `best`: a trial's number or null, by the mean of re-runs once there are any; `ties`: the
      numbers of the trials that the re-runs cannot tell from it.
    - `trials`: each with its params and epochs; `told` is the outcome from another program.
    - `honest`: the final metric with fresh seeds, by trial number; `confirmed`: that of the best
      trial with seeds that had no part in choosing it, null if it has none.
    - `variants`: by name, our runs, their settings and epochs, the published epochs, why the two
      cannot be compared (null if they can) and the verdict.
    - `importances`, with their standard deviations over resamples; none if fewer than 20 trials
      are complete. `savings`.
    - `audits`: how pruned trials ended that were run to their end, by rung.
    - `changes`: its redefinitions, and what its sampler learned from other studies, in words.
    """
    study = findings.study
    found = {
        "study": study.name,
        "metric": study.metric,
        "direction": study.direction,
        "final_metric": study.final.metric,
        "settings": {**study.trainer.settings(), **study.precision_setting},
        "epochs": study.epochs,
        "seed": study.seed,
        "best": None if findings.answer.best is None else findings.answer.best.number,
        "ties": findings.answer.tied,
        "trials": [_trial(findings.overview, trial) for trial in findings.overview.trials],
        "honest": {n: asdict(standing) for n, standing in findings.answer.standings.items()},
        "confirmed": (
            None if findings.answer.confirmed is None else asdict(findings.answer.confirmed)
        ),
        "variants": {
            name: {
                "runs": {
                    repeat: [_epoch(epoch) for epoch in epochs]
                    for repeat, epochs in findings.reproduced[name].items()
                },
                "settings": {
                    **findings.trained[name].trainer.settings(),
                    **findings.trained[name].precision_setting,
                },
                "epochs": findings.trained[name].epochs,
                "published": study.published_for(name),
                "incomparable": findings.trained[name].incomparable,
                "verdict": verdict.text if (verdict := findings.verdicts.get(name)) else None,
            }
            for name in findings.variants
        },
        "importances": {name: asdict(one) for name, one in findings.importances.items()},
        "savings": asdict(findings.savings),
        "audits": [asdict(one) for one in findings.audits],
        "changes": findings.changes,
    }
    return json.dumps(_finite(found), indent=1, allow_nan=False) + "\n"


def _trial(overview: Overview, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "variant": trial.user_attrs.get(VARIANT),
        "state": trial.state.name,
        "value": overview.value(trial),
        "diverged": trial.user_attrs.get(DIVERGED),
        "reason": trial.user_attrs.get(REASON),
        "traceback": trial.user_attrs.get(TRACEBACK),
        "told": overview.told.get(trial.number),
        "params": trial.params,
        "epochs": [_epoch(epoch) for epoch in overview.of(trial)],
    }


def _epoch(epoch: Epoch) -> dict[str, float]:
    return {"number": epoch.number, **epoch.metrics, "seconds": epoch.seconds}


def _importances(findings: ReportData) -> FittedTable:
    return FittedTable(
        rows=[
            {"parameter": name, "importance (sum 1)": f"{one.value:.3f} ± {one.sd:.3f}"}
            for name, one in findings.importances.items()
        ]
    )


def _finite(value: Any) -> Any:
    """Return `value` with None in place of floats that are not finite: JSON has no such numbers."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, float) and value - value != 0:  # infinite, or not a number
        return None
    return value
