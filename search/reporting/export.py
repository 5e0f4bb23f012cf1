"""Reports in Markdown, in CSV with a line for each trial, and in JSON with everything."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from search.reporting import tables
from search.reporting.fitted_table import FittedTable
from search.reporting.rendering import template
from search.reporting.report_data import ReportData
from search.study.metrics import Epoch
from search.study.trial_attributes import DIVERGED, REASON, VARIANT

COLUMNS = ("number", "variant", "state", "value", "epochs", "seconds", "reason", "told",
           "honest_mean", "honest_n")  # fmt: skip
"""The first columns of the CSV; the parameters follow. `value` is the study's metric, and empty
unless this service trained the trial to its end. `epochs` counts the recorded epochs; `seconds` is
their wall time. `told` is the outcome that another program recorded. `honest_mean` and `honest_n`
are the mean of the final metric and the number of the re-runs with fresh seeds."""


def markdown(findings: ReportData) -> str:
    """Return the report's text and tables in Markdown."""
    parts = [
        ("The best trials", "", tables.best_trials(findings)),
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


def comma_separated(findings: ReportData) -> str:
    """Return CSV with `COLUMNS`, the parameters, and a line for each trial."""
    lines = io.StringIO(newline="")
    columns = [*COLUMNS, *findings.study.space.names]
    table = csv.DictWriter(lines, columns, lineterminator="\n")
    table.writeheader()
    for trial in findings.overview.trials:
        found = _trial(findings, trial)
        epochs = found.pop("epochs")
        row = found | found.pop("params") | {"epochs": len(epochs)}
        row["seconds"] = sum(epoch["seconds"] for epoch in epochs)
        if (standing := findings.answer.standings.get(trial.number)) is not None:
            row |= {"honest_mean": standing.honest.mean, "honest_n": standing.honest.n}
        table.writerow({name: row.get(name) for name in columns})
    return lines.getvalue()


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
    - `importances`, `savings`.
    - `audits`: how pruned trials ended that were run to their end, by rung.
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
        "trials": [_trial(findings, trial) for trial in findings.overview.trials],
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
        "importances": dict(findings.importances),
        "savings": asdict(findings.savings),
        "audits": [asdict(one) for one in findings.audits],
    }
    return json.dumps(_finite(found), indent=1, allow_nan=False) + "\n"


def _trial(findings: ReportData, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "variant": trial.user_attrs.get(VARIANT),
        "state": trial.state.name,
        "value": findings.overview.value(trial),
        "diverged": trial.user_attrs.get(DIVERGED),
        "reason": trial.user_attrs.get(REASON),
        "told": findings.overview.told.get(trial.number),
        "params": trial.params,
        "epochs": [_epoch(epoch) for epoch in findings.overview.of(trial)],
    }


def _epoch(epoch: Epoch) -> dict[str, float]:
    return {"number": epoch.number, **epoch.metrics, "seconds": epoch.seconds}


def _importances(findings: ReportData) -> FittedTable:
    return FittedTable(
        rows=[
            {"parameter": name, "importance (sum 1)": f"{value:.3f}"}
            for name, value in findings.importances.items()
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
