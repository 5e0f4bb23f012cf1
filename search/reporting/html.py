"""A report as one self-contained HTML page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from search.reporting import charts, tables
from search.reporting.charts import Figure
from search.reporting.choices import differing, plain
from search.reporting.fitted_table import FittedTable
from search.reporting.rendering import template
from search.reporting.report_data import ENOUGH, RESAMPLES, ReportData
from search.study.metrics import words
from search.study.trial_attributes import REASON, label

SCRIPT = "plotly-basic.min.js"
"""The bundle of plotly.js 4.1.1 with the kinds of charts that are used: lines, points and bars."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; it is left out if it has neither rows nor charts."""

    title: str
    text: str = ""
    table: FittedTable | None = None
    charts: Sequence[tuple[str, Figure]] = ()
    """Pairs of a heading, which may be empty, and a chart."""
    layout: Literal["one", "tall", "wide", "small"] = "one"
    """One chart, a high one, or two or three side by side where there is room."""
    trials: Mapping[str, Any] | None = None
    """A table of all trials, which the page sorts."""
    is_folded: bool = False


def html(findings: ReportData) -> str:
    """Return the page; it loads nothing from the network."""
    return template("report.html").render(
        study=findings.study,
        database=findings.database,
        training_text=findings.training_text,
        answer=tables.answer(findings),
        caution=findings.caution,
        rerun=tables.rerun_command(findings),
        sections=[
            part
            for part in _sections(findings)
            if part.charts or part.trials or (part.table and part.table.rows)
        ],
        json=_json,
        plotly=files("search.reporting").joinpath("templates", SCRIPT).read_text("utf-8"),
    )


def _sections(findings: ReportData) -> Sequence[Section]:
    is_ranked, best = findings.answer.best is not None, tables.best_trials(findings)
    curves = "Solid: the mean over our seeds, in a band from the lowest to the highest."
    if findings.verdicts:
        curves += f" Dashed: the published run. {tables.compared(findings)}"
    n_curves = len(charts.shown_curves(findings))
    some = "" if n_curves == len(findings.overview.epochs) else f" {n_curves} of the trials."
    return [
        Section(title=best.title, text=best.above, table=best.table),
        Section(
            title="History",
            text="The metric of each trial after its last epoch; a pruned trial is a hollow mark. "
            "Click a mark to find the trial in the table.",
            charts=[("", charts.history(findings))] if is_ranked else [],
        ),
        Section(
            title="Parameter importances",
            text="The share of the difference between good and average trials that each parameter "
            f"explains (PED-ANOVA, over the completed trials, from {ENOUGH} on). The lines are "
            f"standard deviations over {RESAMPLES} resamples of the trials.",
            charts=[("", charts.importances(findings))] if findings.importances else [],
        ),
        Section(
            title=f"{findings.study.objective.quantity.capitalize()} by parameter",
            text="Pruned trials are hollow, and shown at their last epoch; variants are diamonds.",
            charts=list(charts.slices(findings)),
            layout="small",
        ),
        Section(
            title="Parallel coordinates",
            text=f"Each line is a completed trial; at most the best {charts.PARALLEL}. Axes with "
            "more than seven values are spaced by rank.",
            charts=[("", charts.parallel_coordinates(findings))] if is_ranked else [],
            layout="tall",
        ),
        Section(
            title="Learning curves",
            text=f"A cross marks where a trial was pruned; point at it to see the reason.{some}",
            charts=[("", charts.learning_curves(findings))],
        ),
        Section(
            title="All trials",
            text="Click a heading to sort.",
            trials=_all_trials(findings),
        ),
        Section(title="What pruning saved", table=tables.savings(findings)),
        Section(
            title="How often pruning was wrong", text=tables.AUDIT, table=tables.audits(findings)
        ),
        Section(
            title="The variants",
            text=curves,
            table=tables.variants(findings),
            charts=[
                (f"{name}: {words(quantity)}", charts.variant(findings, name, quantity))
                for name in findings.variants
                for quantity in charts.quantities(findings, name)
            ],
            layout="wide",
            is_folded=True,
        ),
        Section(title="Failed and diverged trials", table=tables.failures(findings)),
        Section(
            title="Finished outside the service",
            text="Other programs, such as Optuna's dashboard, finished these trials. They are not "
            "ranked.",
            table=tables.told(findings),
        ),
        Section(title="Environments", table=tables.environments(findings)),
    ]


def _all_trials(findings: ReportData) -> Mapping[str, Any]:
    """Return the columns and rows of the table of all trials; a row begins with its number."""
    overview, objective = findings.overview, findings.study.objective
    names = differing(overview.trials)
    rows: list[list[Any]] = []
    for trial in overview.trials:
        recorded = overview.of(trial)
        value = objective.value(recorded[-1]) if recorded else None
        seconds = sum(epoch.seconds for epoch in recorded)
        rows.append(
            [
                trial.number,
                label(trial),
                value,
                len(recorded),
                trial.state.name.lower(),
                float(f"{seconds:.3g}"),
                *(plain(trial.params.get(name)) for name in names),
                str(trial.user_attrs.get(REASON, "")),
            ]
        )
    columns = ["trial", objective.words, "epochs", "state", "seconds", *names, "reason"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return {
        "columns": columns,
        "rows": rows,
        "isMaximized": findings.study.direction == "maximize",
    }


def _json(value: object) -> str:
    """Return the value as JSON that is safe inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")
