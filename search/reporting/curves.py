"""The learning curves of one trial as a picture: loss and accuracy, train and test in one plot.

An SVG file of a few kilobytes, drawn in a millisecond or two, when somebody looks at the trial. The
drawing is for `templates/curves.svg`; here is what it shows and where.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.reporting.rendering import template
from search.study.epoch import Epoch

WIDTH, HEIGHT = 520, 480
"""In pixels; of a shape that a dashboard's thumbnail fills."""
MARGIN, TOP, BOTTOM = 60, 70, 64
GAP = 56
TICKS = 5
"""About so many lines of the grid."""
LEAST = 0.05
"""Least height of a panel, in nats or as a fraction: a single epoch is no drama."""
LEAST_SHARE = 1e-9
"""And as a share of the highest value, beside which a float can have no less."""
MOST = {"accuracy": 1.0, "loss": math.inf}
"""What a figure can be at most; none is below zero."""
DIGITS = 1e4
"""From here on, a level of the grid is told in three digits, which the margin has room for."""
LABELS = 12
"""So many epochs at most have their number below."""
COLORS = {"train": "#0072b2", "batch": "#56b4e9", "validation": "#009e73", "test": "#d55e00"}
"""Of the palette of Okabe and Ito, which the colour-blind can tell apart. `batch` stands for the
train loss where that was not measured, as for most sampled trials."""
GREY = "#666666"

Published = Mapping[int, Mapping[str, float]]
"""By epoch: figures that somebody else published for the same choices."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    split: str
    color: str
    dashed: bool
    """Somebody else's."""
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    name: str
    left: float
    top: float
    width: float
    height: float
    ticks: Sequence[Tick]
    epochs: Sequence[Tick]
    lines: Sequence[Line]


def curves_id(files: str, number: int) -> str:
    """Return the artifact's id under which the dashboard hands out a trial's curves; `files` as in
    `search.database.tables.studies`. Nothing is stored under it."""
    return f"{files}-{number}-c"


def svg(title: str, epochs: Sequence[Epoch], published: Published) -> bytes:
    """Return the curves of a trial with one epoch at least, published ones dashed beside them."""
    height = (HEIGHT - TOP - BOTTOM - GAP) / 2
    panels = [
        _panel(figure, TOP + place * (height + GAP), height, epochs, published)
        for place, figure in enumerate(("accuracy", "loss"))
    ]
    text = template("curves.svg").render(
        title=title,
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
        panels=panels,
        legend=list(_legend(panels)),
    )
    return text.encode()


def _panel(
    figure: str, top: float, height: float, epochs: Sequence[Epoch], published: Published
) -> Panel:
    curves = dict(_curves(figure, epochs, published))
    values = [value for curve in curves.values() for value in curve.values()]
    step, low, high = _grid(values, MOST[figure])
    width = WIDTH - 1.5 * MARGIN
    last = max(max(curve) for curve in curves.values()) if curves else 1

    def x(number: int) -> float:
        return round((number - 1) / max(last - 1, 1) * width, 1)

    def y(value: float) -> float:
        return round((high - value) / (high - low) * height, 1)

    form = ".3g" if high >= DIGITS else f".{max(0, -math.floor(math.log10(step)))}f"
    levels = [low + place * step for place in range(round((high - low) / step) + 1)]
    every = math.ceil(last / LABELS)
    return Panel(
        name=f"{figure} by epoch",
        left=MARGIN,
        top=top,
        width=width,
        height=height,
        ticks=[Tick(at=y(level), text=f"{level:{form}}") for level in levels],
        epochs=[Tick(at=x(number), text=str(number)) for number in range(1, last + 1, every)],
        lines=[
            Line(
                split=split,
                color=COLORS[split],
                dashed=dashed,
                points=[(x(number), y(value)) for number, value in curve.items()],
            )
            for (split, dashed), curve in curves.items()
        ],
    )


def _curves(
    figure: str, epochs: Sequence[Epoch], published: Published
) -> Iterator[tuple[tuple[str, bool], Mapping[int, float]]]:
    """Yield the finite values by epoch of each split, the published ones (True) first."""
    for split in COLORS:
        name = f"{split}_{figure}"
        theirs = {number: of[name] for number, of in published.items() if name in of}
        ours = {epoch.number: getattr(epoch, name, None) for epoch in epochs}
        if split == "batch" and any(epoch.train_loss is not None for epoch in epochs):
            continue
        for found, dashed in ((theirs, True), (ours, False)):
            curve = {n: v for n, v in found.items() if v is not None and math.isfinite(v)}
            if curve:
                yield (split, dashed), curve


def _grid(values: Sequence[float], most: float) -> tuple[float, float, float]:
    """Return a round step, and the lowest and highest multiple of it that enclose the values."""
    lowest, highest = min(values, default=0.0), max(values, default=0.0)
    span = max(highest - lowest, LEAST, highest * LEAST_SHARE)
    if span > highest - lowest:  # as much above as below, but nothing that no figure can be
        lowest = min(max((lowest + highest - span) / 2, 0.0), max(most, highest) - span)
        highest = lowest + span
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(power * n for n in (1, 2, 5, 10) if span <= power * n * TICKS)
    low = math.floor(round(lowest / step, 6)) * step
    return step, low, math.ceil(round(highest / step, 6)) * step


def _legend(panels: Sequence[Panel]) -> Iterator[Mapping[str, object]]:
    lines = [line for panel in panels for line in panel.lines]
    entries = [(split, color, False) for split, color in {x.split: x.color for x in lines}.items()]
    if any(line.dashed for line in lines):
        entries.append(("published", GREY, True))
    left = MARGIN
    for text, color, dashed in entries:
        yield {"left": left, "color": color, "dashed": dashed, "text": text}
        left += 42 + 8 * len(text)
