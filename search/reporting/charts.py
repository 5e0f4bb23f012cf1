"""The charts of a report, as Plotly figures, from Optuna's plots where possible."""

from collections.abc import Iterator, Sequence
from html import escape

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from search.analysis.published import spreads
from search.reporting.report_data import ReportData
from search.study.metrics import split, words
from search.study.trial_attributes import REASON, is_fixed, label

TRAIN, TEST, GRAY, BEST = "#0072b2", "#d55e00", "#b0b0b0", "#009e73"
"""Colours of the colour-blind-safe palette of Okabe and Ito, and a grey."""
PARALLEL = 200
"""The maximum number of trials in the parallel coordinates, the best ones."""


def history(findings: ReportData) -> go.Figure:
    """Return a plot of the metric of each completed trial and the best value so far."""
    figure = optuna.visualization.plot_optimization_history(
        findings.copy, target_name=findings.study.objective.words
    )
    figure.update_traces(name="best so far", selector={"name": "Best Value"})
    return _styled(figure, height=340)


def importances(findings: ReportData) -> go.Figure:
    """Return a bar chart of the parameter importances, the highest at the top."""
    names = list(findings.importances)[::-1]
    values = [findings.importances[name] for name in names]
    bar = go.Bar(
        x=values, y=names, orientation="h", marker_color=TRAIN, text=values, texttemplate="%{x:.2f}"
    )
    return _styled(go.Figure(bar), height=320).update_layout(xaxis_title="importance (sum 1)")


def slices(findings: ReportData) -> Iterator[tuple[str, go.Figure]]:
    """Yield the name of each parameter with a plot of the metric over its values."""
    for name in findings.study.space.names:
        if any(name in trial.params for trial in findings.overview.ranked):
            figure = optuna.visualization.plot_slice(
                findings.copy, params=[name], target_name=findings.study.objective.words
            )
            figure.update_traces(marker={"showscale": False, "size": 6})
            figure.update_layout(xaxis_title=None)
            yield name, _styled(figure, height=240)


def parallel_coordinates(findings: ReportData) -> go.Figure:
    """Return the parallel coordinates of the best completed trials, up to `PARALLEL`."""
    few = optuna.create_study(direction=findings.study.direction)
    few.add_trials(findings.overview.ranked[:PARALLEL])
    metric = findings.study.objective.words
    figure = optuna.visualization.plot_parallel_coordinate(few, target_name=metric)
    return _styled(figure, height=420)


def learning_curves(findings: ReportData) -> go.Figure:
    """Return the metric of every trial by epoch, with a cross where a trial was pruned."""
    trials = [trial for trial in findings.overview.trials if findings.overview.of(trial)]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    fixed = [trial for trial in trials if is_fixed(trial)]
    others = [trial for trial in trials if trial not in pruned and trial not in fixed]
    figure = go.Figure()
    for name, some, color in (
        ("pruned", pruned, GRAY),
        ("sampled", others, TRAIN),
        ("variants", fixed, TEST),
    ):
        if some:
            figure.add_trace(_lines(findings, some, name, color))
    if pruned:
        figure.add_trace(_crosses(findings, pruned))
    if findings.answer.best is not None:
        figure.add_trace(_lines(findings, [findings.answer.best], "best", BEST, width=3))
    figure.update_layout(xaxis=_epochs(findings), yaxis_title=findings.study.objective.words)
    return _styled(figure, height=420)


def quantities(findings: ReportData, name: str) -> Sequence[str]:
    """Return the quantities that were measured of a variant, such as `loss`, the study's last."""
    runs = findings.reproduced[name].values()
    found = dict.fromkeys(split(m)[1] for run in runs for epoch in run for m in epoch.metrics)
    own = split(findings.study.metric)[1]
    return [*(one for one in found if one != own), own]


def variant(findings: ReportData, name: str, figure: str) -> go.Figure:
    """Return a variant's curves of a quantity, on the training data and on those of the study's
    metric.

    Our curve is the mean over the seeds, in a band from the lowest to the highest value. The
    published curve, of a single run, is dashed.
    """
    published = "published, not comparable" if findings.trained[name].incomparable else "published"
    made = go.Figure()
    highest = []
    own = split(findings.study.metric)[0]
    for prefix, color in (("train", TRAIN), (own, TEST)):
        metric = f"{prefix}_{figure}" if prefix else figure
        ours = spreads(findings.reproduced, name, metric)
        epochs, found = list(ours), list(ours.values())
        highest += [spread.highest for spread in found]
        if any(spread.n > 1 for spread in found):
            edge = [spread.highest for spread in found] + [spread.lowest for spread in found[::-1]]
            made.add_scatter(
                x=epochs + epochs[::-1], y=edge, fill="toself", fillcolor=color, opacity=0.2,
                mode="lines", line_width=0, hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        made.add_scatter(
            x=epochs, y=[spread.mean for spread in found], name=f"{prefix or figure}, ours",
            line_color=color, mode="lines+markers", marker_size=5,
        )  # fmt: skip
        theirs = {
            epoch: metrics[metric]
            for epoch, metrics in findings.study.published_for(name).items()
            if metric in metrics
        }
        if theirs:
            highest += theirs.values()
            made.add_scatter(
                x=list(theirs), y=list(theirs.values()), name=f"{prefix or figure}, {published}",
                line={"color": color, "dash": "dash"}, mode="lines",
            )  # fmt: skip
    made.update_layout(xaxis=_epochs(findings), yaxis_title=words(figure))
    if figure == "loss" and max(highest, default=0.0) > 10:  # a spike would flatten the rest
        made.update_yaxes(type="log", dtick=1)
    return _styled(made, height=300)


def _lines(
    findings: ReportData, trials: Sequence[FrozenTrial], name: str, color: str, *, width: int = 1
) -> go.Scatter:
    """Return the curves of `trials` as one trace with gaps: a trace for each trial is slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        epochs = findings.overview.of(trial)
        x += [*(epoch.number for epoch in epochs), None]
        y += [*map(findings.study.objective.value, epochs), None]
        text += [f"trial {label(trial)}"] * (len(epochs) + 1)
    return go.Scatter(
        x=x, y=y, text=text, name=f"{name} ({len(trials)})" if name != "best" else name,
        mode="lines+markers", marker_size=3, line={"color": color, "width": width},
        hovertemplate="%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
    )  # fmt: skip


def _crosses(findings: ReportData, pruned: Sequence[FrozenTrial]) -> go.Scatter:
    last = [findings.overview.of(trial)[-1] for trial in pruned]
    reasons = [escape(str(trial.user_attrs.get(REASON, "")), quote=False) for trial in pruned]
    return go.Scatter(
        x=[epoch.number for epoch in last],
        y=[findings.study.objective.value(epoch) for epoch in last],
        text=[f"trial {label(t)}: {why}" for t, why in zip(pruned, reasons, strict=True)],
        mode="markers", marker={"symbol": "x", "color": "#606060", "size": 6}, name="pruned here",
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _epochs(findings: ReportData) -> dict[str, object]:
    """Return the settings of an epoch axis, with a tick at every epoch if there are at most 12."""
    return {"title": "epoch", "dtick": 1 if findings.study.epochs <= 12 else None}


def _styled(figure: go.Figure, *, height: int) -> go.Figure:
    """Return the figure without a title, which the page shows, and with responsive width."""
    return figure.update_layout(
        template="plotly_white",
        title=None,
        autosize=True,
        width=None,
        height=height,
        margin={"l": 60, "r": 24, "t": 16, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
