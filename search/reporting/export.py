"""A report for other programs: Markdown, CSV with a line for each trial, JSON with everything."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from search.reporting import tables
from search.reporting.rendering import template
from search.reporting.report_data import Findings
from search.study.choices import FIELDS
from search.study.trial_attributes import DIVERGED, REASON, VARIANT

COLUMNS = ("number", "variant", "state", "accuracy", "epochs", "seconds", "reason", "told",
           "honest_mean", "honest_n", *FIELDS)  # fmt: skip
"""Of the CSV: accuracy is that of the split that selects, empty unless the trial was trained to its
end here; epochs those that it ran, and seconds their wall time; told, what somebody else made of
it; honest_mean and honest_n of its re-runs with fresh seeds."""


def markdown(findings: Findings) -> str:
    """Return the report's words and tables."""
    parts = [
        ("The best trials", "", tables.best_trials(findings)),
        ("The variants", tables.compared(findings), tables.variants(findings)),
        ("Which parameters matter", "", _importances(findings)),
        ("What pruning saved", "", tables.savings(findings)),
        ("Failed and diverged trials", "", tables.failures(findings)),
        ("Ended by somebody else", "", tables.told(findings)),
        ("Where it ran", "", tables.environments(findings)),
    ]
    return template("report.md").render(
        study=findings.study,
        answer=tables.answer(findings),
        caution=findings.caution,
        rerun=tables.needs_rerun(findings),
        tables=[part for part in parts if part[2].rows],
    )


def comma_separated(findings: Findings) -> str:
    """Return a line for each trial, under `COLUMNS`."""
    lines = io.StringIO(newline="")
    table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    table.writeheader()
    for trial in findings.overview.trials:
        found = _trial(findings, trial)
        epochs = found.pop("epochs")
        row = found | found.pop("params") | {"epochs": len(epochs)}
        row["seconds"] = sum(epoch["seconds"] for epoch in epochs)
        if (standing := findings.standings.get(trial.number)) is not None:
            row |= {"honest_mean": standing.honest.mean, "honest_n": standing.honest.n}
        table.writerow({name: row.get(name) for name in COLUMNS})
    return lines.getvalue()


def as_json(findings: Findings) -> str:
    """Return everything as one JSON object.

    `study`, `dataset`, `images` (null for all), `select`, `epochs` and `seed` of the study; `best`,
    a trial's number or null, by re-run mean once there are re-runs; `ties`, the trials that these
    cannot tell from it; `trials`, each with its params and epochs, and in `told` what somebody else
    made of it; `honest`, by a trial's number its accuracy with fresh seeds; `variants`, by name our
    runs, the images and epochs that they were trained for, the published epochs, why these cannot
    be compared (null if they can) and the verdict; `importances`; `savings`. A figure that is not a
    number is null.
    """
    study = findings.study
    published: dict[str, dict[int, Any]] = {}
    for (name, epoch), figures in study.published_figures.items():
        published.setdefault(name, {})[epoch] = dict(figures)
    found = {
        "study": study.name,
        "dataset": study.dataset,
        "images": study.images,
        "select": study.select,
        "epochs": study.epochs,
        "seed": study.seed,
        "best": None if findings.best is None else findings.best.number,
        "ties": findings.answer.tied,
        "trials": [_trial(findings, trial) for trial in findings.overview.trials],
        "honest": {n: asdict(standing) for n, standing in findings.standings.items()},
        "variants": {
            name: {
                "runs": {
                    repeat: [asdict(epoch) for epoch in epochs]
                    for repeat, epochs in findings.reproduced[name].items()
                },
                "images": findings.trained[name].images,
                "epochs": findings.trained[name].epochs,
                "published": published.get(name, {}),
                "incomparable": findings.trained[name].incomparable,
                "verdict": verdict.text if (verdict := findings.verdicts.get(name)) else None,
            }
            for name in findings.variants
        },
        "importances": dict(findings.importances),
        "savings": asdict(findings.savings),
    }
    return json.dumps(_finite(found), indent=1, allow_nan=False) + "\n"


def _trial(findings: Findings, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "variant": trial.user_attrs.get(VARIANT),
        "state": trial.state.name,
        "accuracy": findings.overview.score(trial),
        "diverged": trial.user_attrs.get(DIVERGED),
        "reason": trial.user_attrs.get(REASON),
        "told": findings.overview.told.get(trial.number),
        "params": trial.params,
        "epochs": [asdict(epoch) for epoch in findings.overview.of(trial)],
    }


def _importances(findings: Findings) -> tables.Table:
    rows = [(name, f"{value:.3f}") for name, value in findings.importances.items()]
    return tables.Table(columns=("parameter", "importance, of 1"), rows=rows)


def _finite(value: Any) -> Any:
    """Return `value` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, float) and value - value != 0:  # infinite, or not a number
        return None
    return value
