"""A report as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from search.reporting import charts, tables
from search.reporting.fitted_table import FittedTable
from search.reporting.rendering import template
from search.reporting.report_data import ReportData
from search.study.metrics import words


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; it is left out if it has neither rows nor charts."""

    title: str
    text: str = ""
    table: FittedTable | None = None
    charts: Sequence[tuple[str, go.Figure]] = ()
    """Pairs of a heading, which may be empty, and a chart."""
    layout: Literal["one", "wide", "small"] = "one"
    """One, two or three charts side by side where there is room."""


def html(findings: ReportData) -> str:
    """Return the page; it loads nothing from the network."""
    parts = [p for p in _sections(findings) if p.charts or (p.table and p.table.rows)]
    return template("report.html").render(
        study=findings.study,
        database=findings.database,
        answer=tables.answer(findings),
        caution=findings.caution,
        rerun=tables.rerun_command(findings),
        sections=parts,
        json=_json,
        plotly=get_plotlyjs(),
    )


def _sections(findings: ReportData) -> Sequence[Section]:
    is_ranked = findings.answer.best is not None
    curves = "Solid: the mean over our seeds, in a band from the lowest to the highest."
    if findings.verdicts:
        curves += f" Dashed: the published run. {tables.compared(findings)}"
    return [
        Section(title="The best trials", table=tables.best_trials(findings)),
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
        ),
        Section(title="History", charts=[("", charts.history(findings))] if is_ranked else []),
        Section(
            title="Parameter importances",
            text="The share of the difference between good and average trials that each parameter "
            "explains (PED-ANOVA, over the completed trials).",
            charts=[("", charts.importances(findings))] if findings.importances else [],
        ),
        Section(
            title=f"{findings.study.objective.quantity.capitalize()} by parameter",
            charts=list(charts.slices(findings)),
            layout="small",
        ),
        Section(
            title="Parallel coordinates",
            text=f"Each line is a completed trial; at most the best {charts.PARALLEL}.",
            charts=[("", charts.parallel_coordinates(findings))] if is_ranked else [],
        ),
        Section(
            title="Learning curves",
            text="A cross marks where a trial was pruned; point at it to see the reason.",
            charts=[("", charts.learning_curves(findings))],
        ),
        Section(title="What pruning saved", table=tables.savings(findings)),
        Section(
            title="How often pruning was wrong", text=tables.AUDIT, table=tables.audits(findings)
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


def _json(figure: go.Figure) -> str:
    """Return the figure as JSON that is safe inside a script element."""
    text: str = plotly.io.to_json(figure)
    return text.replace("<", "\\u003c")
