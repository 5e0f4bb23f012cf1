"""A report as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from search.reporting import charts, tables
from search.reporting.rendering import template
from search.reporting.report_data import ReportData
from search.reporting.tables import Table


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    text: str = ""
    table: Table | None = None
    charts: Sequence[tuple[str, str]] = ()
    """Pairs of a heading, which may be empty, and a chart as JSON."""
    layout: Literal["one", "wide", "small"] = "one"
    """One, two or three charts side by side where there is room."""


def html(findings: ReportData) -> str:
    """Return the page; it loads nothing from the network."""
    return template("report.html").render(
        study=findings.study,
        database=findings.database,
        answer=tables.answer(findings),
        caution=findings.caution,
        rerun=tables.rerun_command(findings),
        sections=[section for section in _sections(findings) if section.table or section.charts],
        plotly=get_plotlyjs(),
    )


def _sections(findings: ReportData) -> list[Section]:
    found = [
        Section(
            title="The best trials",
            table=tables.best_trials(findings) if findings.best is not None else None,
        ),
        _variants(findings),
        _history(findings),
        Section(
            title="Learning curves",
            text="A cross marks where a trial was pruned; point at it to see the reason.",
            charts=[("", _json(charts.learning_curves(findings)))],
        ),
        Section(title="What pruning saved", table=tables.savings(findings)),
        Section(
            title="Failed and diverged trials",
            table=tables.failures(findings) if findings.failures else None,
        ),
        Section(
            title="Finished outside the service",
            text="Other programs, such as Optuna's dashboard, finished these trials. They are not "
            "ranked.",
            table=tables.told(findings) if findings.overview.told else None,
        ),
        Section(title="Environments", table=tables.environments(findings)),
    ]
    if findings.best is not None:
        found[3:3] = _parameters(findings)
    return found


def _variants(findings: ReportData) -> Section:
    if not findings.variants:
        return Section(title="The variants")
    text = "Solid: the mean over our seeds, in a band from the lowest to the highest."
    if findings.verdicts:
        text += f" Dashed: the published run. {tables.compared(findings)}"
    return Section(
        title="The variants",
        text=text,
        table=tables.variants(findings),
        charts=[
            (f"{name}: {figure}", _json(charts.variant(findings, name, figure)))
            for name in findings.variants
            for figure in ("loss", "accuracy")
        ],
        layout="wide",
    )


def _history(findings: ReportData) -> Section:
    if findings.best is None:
        return Section(title="History")
    return Section(title="History", charts=[("", _json(charts.history(findings)))])


def _parameters(findings: ReportData) -> list[Section]:
    importances = Section(
        title="Parameter importances",
        text="The share of the difference between good and average trials that each parameter "
        "explains (PED-ANOVA, over the completed trials).",
        charts=[("", _json(charts.importances(findings)))] if findings.importances else [],
        layout="one",
    )
    slices = [(name, _json(figure)) for name, figure in charts.slices(findings)]
    return [
        importances,
        Section(title="Accuracy by parameter", charts=slices, layout="small"),
        Section(
            title="Parallel coordinates",
            text=f"Each line is a completed trial; at most the best {charts.PARALLEL}.",
            charts=[("", _json(charts.parallel_coordinates(findings)))],
        ),
    ]


def _json(figure: go.Figure) -> str:
    """Return the figure as JSON that is safe inside a script element."""
    text: str = plotly.io.to_json(figure)
    return text.replace("<", "\\u003c")
