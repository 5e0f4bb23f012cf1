"""The learning curves of one trial as an SVG file: accuracy and loss of each split by epoch.

A file has some 30 KB and is drawn in 0.2 s, when somebody looks at the trial. The first one takes a
second more, to import matplotlib.
"""

import io
import math
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

from search.study.epoch import Epoch

SIZE = 520 / 96, 480 / 96
"""In inches of 96 pixels; the shape of the dashboard's thumbnails."""
LEAST = 0.05
"""Minimum range of a vertical axis, in nats or as a fraction, so that noise is not magnified."""
LEAST_SHARE = 1e-9
"""The same as a share of the highest value, for the limited precision of floats."""
MOST = {"accuracy": 1.0, "loss": math.inf}
"""Upper bound of each metric; none is below zero."""
COLORS = {"train": "#0072b2", "batch": "#56b4e9", "validation": "#009e73", "test": "#d55e00"}
"""From the color-blind safe palette of Okabe and Ito. `batch` replaces the train loss where that
was not measured, as for most sampled trials."""
STYLE = {
    "svg.fonttype": "none",  # texts, not their outlines
    "svg.hashsalt": "curves",  # the same ids for the same picture
    "text.parse_math": False,
    "axes.formatter.limits": (-4, 4),  # longer numbers do not fit beside a panel
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}
_drawing = threading.Lock()
"""matplotlib and its settings are for one thread at a time."""

Published = Mapping[int, Mapping[str, float]]
"""Published metrics of the same choices, by epoch."""


def curves_id(files: str, number: int) -> str:
    """Return the artifact id under which the dashboard serves a trial's curves; `files` as in
    `search.database.tables.studies`. No file is stored under it."""
    return f"{files}-{number}-c"


def svg(title: str, epochs: Sequence[Epoch], published: Published) -> bytes:
    """Return the curves of a trial with one epoch at least, published ones dashed beside them.

    The id of a curve is such as `test_loss`, and `published_test_loss`.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    written = io.BytesIO()
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser will have it
    with _drawing, style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE)
        entries = {}
        for name, axes in zip(MOST, figure.subplots(2, sharex=True), strict=True):
            axes.set_title(f"{name} by epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.tick_params(labelbottom=True)
            curves = dict(_curves(name, epochs, published))
            for (split, dashed), curve in curves.items():
                axes.plot(
                    list(curve.keys()),
                    list(curve.values()),
                    "--" if dashed else "o-",
                    color=COLORS[split],
                    markersize=3.5,
                    clip_on=False,
                    gid=f"{'published_' * dashed}{split}_{name}",
                )
                entries[split] = Line2D([], [], color=COLORS[split], label=split)
            if curves:
                values = [value for curve in curves.values() for value in curve.values()]
                axes.set_ylim(_limits(values, MOST[name]))
        if published:
            entries["published"] = Line2D([], [], color="grey", linestyle="--", label="published")
        figure.suptitle(title, x=0.02, ha="left")
        figure.legend(handles=list(entries.values()), loc="lower left", ncols=len(entries))
        figure.subplots_adjust(left=0.1, right=0.96, top=0.86, bottom=0.13, hspace=0.35)
        figure.savefig(written, format="svg", metadata={"Title": title, "Date": None})
    return written.getvalue()


def _curves(
    figure: str, epochs: Sequence[Epoch], published: Published
) -> Iterator[tuple[tuple[str, bool], Mapping[int, float]]]:
    """Yield the finite values of each split by epoch; published curves (True) come first."""
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


def _limits(values: Collection[float], most: float) -> tuple[float, float]:
    """Return the ends of an axis around the values, within the bounds of the metric."""
    lowest, highest = min(values), max(values)
    middle = (lowest + highest) / 2
    half = max((highest - lowest) * 1.1, LEAST, highest * LEAST_SHARE) / 2
    return max(middle - half, 0.0), min(middle + half, max(most, highest))
