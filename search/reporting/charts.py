"""The charts of a report, as figures of plotly.js: dictionaries of traces and a layout."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.analysis.published import spreads
from search.reporting.choices import cell, differing, plain
from search.reporting.report_data import ReportData
from search.study.metrics import split, words
from search.study.trial_attributes import REASON, is_fixed, label

Figure = Mapping[str, Any]

TRAIN, TEST, GRAY, BEST = "#0072b2", "#d55e00", "#8c8c8c", "#009e73"
"""Colours of the colour-blind-safe palette of Okabe and Ito, and a grey."""
PARALLEL = 200
"""The maximum number of trials in the parallel coordinates, the best ones."""
CURVES = 500
"""The maximum number of sampled trials in the learning curves."""
DIGITS = 5
"""Significant digits of a value in the page."""
HOVER = "trial %{customdata}: %{y:.4~g}<extra></extra>"
"""What a mark says of its trial, whose number is its custom data."""


def history(findings: ReportData) -> Figure:
    """Return the metric of each trial, and the best value so far as steps."""
    complete = sorted(findings.overview.ranked, key=lambda trial: trial.number)
    best = accumulate(
        (trial.values[0] for trial in complete),
        max if findings.study.direction == "maximize" else min,
    )
    steps = {
        "x": [trial.number for trial in complete],
        "y": _rounded(best),
        "mode": "lines",
        "name": "best so far",
        "line": {"color": BEST, "shape": "hv", "width": 2},
        "hoverinfo": "skip",
    }
    points = [
        _points(findings, trials, [trial.number for trial in trials], kind)
        for kind, trials in _kinds(findings)
    ]
    titles = {"xaxis": {"title": {"text": "trial"}}, "yaxis": _metric_axis(findings)}
    return _figure([*points, steps], titles, height=340)


def importances(findings: ReportData) -> Figure:
    """Return a bar chart of the parameter importances, the highest at the top."""
    names = list(findings.importances)[::-1]
    found = [findings.importances[name] for name in names]
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": _rounded(one.value for one in found),
        "y": names,
        "error_x": {
            "array": _rounded(one.sd for one in found),
            "arrayminus": _rounded(min(one.sd, one.value) for one in found),
            "symmetric": False,
            "color": GRAY,
        },
        "marker": {"color": TRAIN},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    axis = {"title": {"text": "importance (sum 1)"}, "rangemode": "tozero"}
    return _figure([bar], {"xaxis": axis, "yaxis": {"automargin": True}}, height=320)


def slices(findings: ReportData) -> Iterator[tuple[str, Figure]]:
    """Yield the name of each parameter with a plot of the metric over its values."""
    for name, distribution in findings.study.space.ranges.items():
        shown = cell if isinstance(distribution, CategoricalDistribution) else plain
        traces = [
            _points(findings, there, [shown(trial.params[name]) for trial in there], kind)
            for kind, trials in _kinds(findings)
            if (there := [trial for trial in trials if name in trial.params])
        ]
        if traces:
            layout = {"xaxis": _value_axis(distribution), "showlegend": False}
            yield name, _figure(traces, layout, height=240)


def parallel_coordinates(findings: ReportData) -> Figure:
    """Return a line for each of the best completed trials, up to `PARALLEL`, through an axis for
    each choice that differs, and the metric on the last axis.

    The axes lie one below the other, so that names and values are readable on a phone too.
    """
    trials = findings.overview.ranked[:PARALLEL]
    names = differing(trials)
    places = [_places([trial.params.get(name) for trial in trials]) for name in names]
    metric = _places([trial.values[0] for trial in trials])
    n_best = max(len(trials) // 10, 1)
    groups = (
        ("others", GRAY, 1, range(n_best, len(trials))),
        (f"best {n_best}", BEST, 2, range(n_best)),
    )
    traces = []
    for title, color, width, numbers in groups:
        x: list[float | None] = []
        y: list[int | None] = []
        numbers_of: list[int] = []
        for index in numbers:
            line = [found[index] for found, _ in (*places, metric)]
            x += [*line, None]
            y += [*range(len(line)), None]
            numbers_of += [trials[index].number] * (len(line) + 1)
        traces.append(
            {
                "x": x,
                "y": y,
                "customdata": numbers_of,
                "mode": "lines",
                "name": title,
                "line": {"color": color, "width": width},
                "hovertemplate": "trial %{customdata}<extra></extra>",
            }
        )
    ticks = [
        {"x": at, "y": place, "text": escape(text), "showarrow": False, "yanchor": "top",
         "yshift": -2, "bgcolor": "white", "font": {"size": 10}}
        for place, (_, marks) in enumerate((*places, metric))
        for at, text in marks
    ]  # fmt: skip
    axis = {
        "tickvals": list(range(len(names) + 1)),
        "ticktext": [*names, findings.study.objective.quantity],
        "range": [len(names) + 0.5, -0.1],
        "zeroline": False,
        "automargin": True,
    }
    layout = {
        "xaxis": {"visible": False, "range": [-0.1, 1.08]},
        "yaxis": axis,
        "annotations": ticks,
    }
    return _figure(traces, layout, height=90 + 44 * len(places))


def learning_curves(findings: ReportData) -> Figure:
    """Return the metric of trials by epoch, with a cross where a trial was pruned.

    An accuracy above 0.9 is shown as its distance to 1, on a logarithmic axis.
    """
    trials = shown_curves(findings)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    fixed = [trial for trial in trials if is_fixed(trial)]
    others = [trial for trial in trials if trial not in pruned and trial not in fixed]
    traces = [
        _lines(findings, some, f"{name} ({len(some)})", color)
        for name, some, color in (
            ("pruned", pruned, GRAY),
            ("sampled", others, TRAIN),
            ("variants", fixed, TEST),
        )
        if some
    ]
    if pruned:
        traces.append(_crosses(findings, pruned))
    if findings.answer.best is not None:
        traces.append(_lines(findings, [findings.answer.best], "best", BEST, width=3))
    axis: dict[str, Any] = _metric_axis(findings)
    if _is_close_to_1(findings):
        title = f"1 − {findings.study.objective.words}"
        ticks = [digit / 10**power for power in range(6) for digit in (1, 2, 5)]
        axis = {"title": {"text": title}, "type": "log", "autorange": "reversed",
                "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}  # fmt: skip
    return _figure(traces, {"xaxis": _epochs(findings), "yaxis": axis}, height=420)


def shown_curves(findings: ReportData) -> Sequence[FrozenTrial]:
    """Return the trials of the learning curves: all, or the fixed ones, the best, and an even
    selection of the others."""
    trials = [trial for trial in findings.overview.trials if findings.overview.of(trial)]
    sampled = [trial for trial in trials if not is_fixed(trial)]
    if len(sampled) <= CURVES:
        return trials
    best = [trial.number for trial in findings.overview.ranked[: CURVES // 2]]
    step = len(sampled) // (CURVES - len(best)) + 1
    kept = {trial.number for trial in trials if is_fixed(trial)}
    kept |= {*best, *(trial.number for trial in sampled[::step])}
    return [trial for trial in trials if trial.number in kept]


def quantities(findings: ReportData, name: str) -> Sequence[str]:
    """Return the quantities that were measured of a variant, such as `loss`, the study's last."""
    runs = findings.reproduced[name].values()
    found = dict.fromkeys(split(m)[1] for run in runs for epoch in run for m in epoch.metrics)
    own = split(findings.study.metric)[1]
    return [*(one for one in found if one != own), own]


def variant(findings: ReportData, name: str, quantity: str) -> Figure:
    """Return a variant's curves of a quantity, on the training data and on those of the study's
    metric.

    Our curve is the mean over the seeds, in a band from the lowest to the highest value. The
    published curve, of a single run, is dashed.
    """
    published = "published, not comparable" if findings.trained[name].incomparable else "published"
    ours_text = ", ours" if findings.study.published_figures else ""
    traces: list[Figure] = []
    highest: list[float] = []
    own = split(findings.study.metric)[0]
    for prefix, color in (("train", TRAIN), (own, TEST)):
        metric = f"{prefix}_{quantity}" if prefix else quantity
        ours = spreads(findings.reproduced, name, metric)
        epochs, found = list(ours), list(ours.values())
        highest += [spread.highest for spread in found]
        if any(spread.n > 1 for spread in found):
            edge = [spread.highest for spread in found] + [spread.lowest for spread in found[::-1]]
            traces.append(
                {"x": epochs + epochs[::-1], "y": _rounded(edge), "fill": "toself",
                 "fillcolor": color, "opacity": 0.2, "mode": "lines", "line": {"width": 0},
                 "hoverinfo": "skip", "showlegend": False}
            )  # fmt: skip
        if found:
            traces.append(
                {"x": epochs, "y": _rounded(spread.mean for spread in found),
                 "name": f"{prefix or quantity}{ours_text}", "line": {"color": color},
                 "mode": "lines+markers", "marker": {"size": 5}}
            )  # fmt: skip
        theirs = {
            epoch: metrics[metric]
            for epoch, metrics in findings.study.published_for(name).items()
            if metric in metrics
        }
        if theirs:
            highest += theirs.values()
            traces.append(
                {"x": list(theirs), "y": list(theirs.values()), "mode": "lines",
                 "name": f"{prefix or quantity}, {published}",
                 "line": {"color": color, "dash": "dash"}}
            )  # fmt: skip
    axis: dict[str, Any] = {"title": {"text": words(quantity)}}
    if quantity == "loss" and max(highest, default=0.0) > 10:  # a spike would flatten the rest
        axis |= {"type": "log", "dtick": 1}
    return _figure(traces, {"xaxis": _epochs(findings), "yaxis": axis}, height=300)


def _kinds(findings: ReportData) -> Iterator[tuple[str, Sequence[FrozenTrial]]]:
    """Yield the trials with a metric by what they are."""
    ranked = sorted(findings.overview.ranked, key=lambda trial: trial.number)
    measured = [trial for trial in findings.overview.ended_here if findings.overview.of(trial)]
    kinds = {
        "pruned": [trial for trial in measured if trial.state == TrialState.PRUNED],
        "complete": [trial for trial in ranked if not is_fixed(trial)],
        "variant": [trial for trial in ranked if is_fixed(trial)],
    }
    yield from ((kind, trials) for kind, trials in kinds.items() if trials)


MARKERS: Mapping[str, Mapping[str, Any]] = {
    "pruned": {"symbol": "circle-open", "color": GRAY, "size": 6},
    "complete": {"color": TRAIN, "size": 7, "opacity": 0.6},
    "variant": {"color": TEST, "size": 8, "symbol": "diamond", "opacity": 0.8},
}


def _points(
    findings: ReportData, trials: Sequence[FrozenTrial], x: Sequence[object], kind: str
) -> Figure:
    """Return a point for each trial, at its last metric."""
    return {
        "x": x,
        "y": _rounded(_last(findings, trial) for trial in trials),
        "customdata": [trial.number for trial in trials],
        "mode": "markers",
        "name": f"{kind} ({len(trials)})",
        "marker": MARKERS[kind],
        "hovertemplate": HOVER,
    }


def _last(findings: ReportData, trial: FrozenTrial) -> float:
    return findings.study.objective.value(findings.overview.of(trial)[-1])


def _lines(
    findings: ReportData, trials: Sequence[FrozenTrial], name: str, color: str, *, width: int = 1
) -> Figure:
    """Return the curves of `trials` as one trace with gaps: a trace for each trial is slow."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int] = []
    for trial in trials:
        epochs = findings.overview.of(trial)
        x += [*(epoch.number for epoch in epochs), None]
        y += [*_rounded(_height(findings, epoch) for epoch in epochs), None]
        numbers += [trial.number] * (len(epochs) + 1)
    return {
        "x": x, "y": y, "customdata": numbers, "name": name, "mode": "lines+markers",
        "marker": {"size": 3}, "line": {"color": color, "width": width},
        "hovertemplate": "trial %{customdata}<br>epoch %{x}: %{y:.4~g}<extra></extra>",
    }  # fmt: skip


def _crosses(findings: ReportData, pruned: Sequence[FrozenTrial]) -> Figure:
    last = [findings.overview.of(trial)[-1] for trial in pruned]
    reasons = [escape(str(trial.user_attrs.get(REASON, "")), quote=False) for trial in pruned]
    return {
        "x": [epoch.number for epoch in last],
        "y": _rounded(_height(findings, epoch) for epoch in last),
        "text": [
            f"trial {escape(label(trial))}: {why}"
            for trial, why in zip(pruned, reasons, strict=True)
        ],
        "customdata": [trial.number for trial in pruned],
        "mode": "markers", "marker": {"symbol": "x", "color": GRAY, "size": 6},
        "name": "pruned here", "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _is_close_to_1(findings: ReportData) -> bool:
    """Return whether the metric is an accuracy whose best curves cannot be told apart near 1."""
    ranked, objective = findings.overview.ranked, findings.study.objective
    if not ranked or objective.quantity != "accuracy" or objective.direction != "maximize":
        return False
    return bool(0.9 <= ranked[0].values[0] <= 1)


def _height(findings: ReportData, epoch: Any) -> float:
    """Return where the learning curves show an epoch."""
    value = findings.study.objective.value(epoch)
    return max(1 - value, 1e-6) if _is_close_to_1(findings) else value


def _epochs(findings: ReportData) -> dict[str, Any]:
    """Return the settings of an epoch axis, with a tick at every epoch if there are at most 12."""
    tick = {"dtick": 1} if findings.study.epochs <= 12 else {}
    return {"title": {"text": "epoch"}, **tick}


def _metric_axis(findings: ReportData) -> dict[str, Any]:
    return {"title": {"text": findings.study.objective.words}}


def _value_axis(distribution: object) -> dict[str, Any]:
    """Return the settings of an axis for the values of a parameter."""
    match distribution:
        case CategoricalDistribution(choices=values):
            names = [cell(value) for value in values]
            return {"type": "category", "categoryorder": "array", "categoryarray": names}
        case FloatDistribution(log=True) | IntDistribution(log=True):
            return {"type": "log", "dtick": 1, "exponentformat": "power"}
    return {}


def _places(values: Sequence[Any]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return the place of each value on an axis from 0 to 1, and the marks of the axis; a trial
    without the value has none."""
    there = [value for value in values if value is not None]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in there)
    ranked = sorted(set(there)) if is_number else sorted(set(there), key=str)
    last = max(len(ranked) - 1, 1)
    if not is_number or len(ranked) <= 7:
        at = {value: place / last for place, value in enumerate(ranked)}
        return [at.get(value) for value in values], [(at[v], cell(v)) for v in ranked]
    order = {value: place / last for place, value in enumerate(ranked)}  # by rank: no outlier rules
    marks = [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
    return [order.get(value) for value in values], [(order[v], cell(v)) for v in marks]


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Return the values with few digits; None if one is then no longer finite."""
    found = [float(f"{value:.{DIGITS}g}") for value in values]
    return [value if math.isfinite(value) else None for value in found]


def _figure(traces: Sequence[Figure], layout: Mapping[str, Any], *, height: int) -> Figure:
    """Return the figure with responsive width; the page gives the title, and the colours of text,
    grid and background."""
    return {
        "data": [{"type": "scatter", **trace} for trace in traces],
        "layout": {
            "autosize": True,
            "height": height,
            "hovermode": "closest",
            "margin": {"l": 60, "r": 24, "t": 16, "b": 48},
            "font": {"family": "system-ui, sans-serif", "size": 12},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            **layout,
        },
    }
