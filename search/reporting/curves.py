"""The learning curves of one trial as an SVG file: each quantity of each split by epoch.

A file has some 30 KB and is drawn in 0.2 s, when somebody looks at the trial. The first one takes a
second more, to import matplotlib.
"""

import io
import math
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

from search.study.metrics import Epoch, Metrics, split, words

SIZE = 520 / 96, 480 / 96
"""In inches of 96 pixels; the shape of the dashboard's thumbnails."""
LEAST = 0.05
"""Minimum range of a vertical axis, in nats or as a fraction, so that noise is not magnified."""
LEAST_SHARE = 1e-9
"""The same as a share of the highest value, for the limited precision of floats."""
PANELS = 3
"""Maximum number of quantities that are drawn."""
SHARES = ("accuracy", "auc", "f1")
"""Quantities from 0 to 1."""
COLORS = {
    "train": "#0072b2",
    "batch": "#56b4e9",
    "validation": "#009e73",
    "valid": "#009e73",
    "val": "#009e73",
    "test": "#d55e00",
    "": "#d55e00",
}
"""By split, from the color-blind safe palette of Okabe and Ito. `batch` is left out where the train
metric was measured, as for variants."""
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

Published = Mapping[int, Metrics]
"""Published metrics of the same choices, by epoch."""


def curves_id(files: str, number: int) -> str:
    """Return the artifact id under which the dashboard serves a trial's curves; `files` as in
    `search.database.tables.studies`. No file is stored under it."""
    return f"{files}-{number}-c"


def svg(title: str, epochs: Sequence[Epoch], published: Published, metric: str) -> bytes:
    """Return the curves of a trial with one epoch at least, published ones dashed beside them.

    The quantity of `metric` comes first. The id of a curve is such as `test_loss`, and
    `published_test_loss`.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    written = io.BytesIO()
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser will have it
    names = dict.fromkeys([metric, *(name for epoch in epochs for name in epoch.metrics)])
    quantities = list(dict.fromkeys(split(name)[1] for name in names))[:PANELS]
    with _drawing, style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE)
        entries = {}
        panels = figure.subplots(len(quantities), sharex=True, squeeze=False)[:, 0]
        for quantity, axes in zip(quantities, panels, strict=True):
            axes.set_title(f"{words(quantity)} by epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.tick_params(labelbottom=True)
            curves = dict(_curves(quantity, names, epochs, published))
            for (name, dashed), curve in curves.items():
                prefix = split(name)[0]
                axes.plot(
                    list(curve.keys()),
                    list(curve.values()),
                    "--" if dashed else "o-",
                    color=COLORS[prefix],
                    markersize=3.5,
                    clip_on=False,
                    gid=f"{'published_' * dashed}{name}",
                )
                text = prefix or words(quantity)
                entries[text] = Line2D([], [], color=COLORS[prefix], label=text)
            if curves:
                values = [value for curve in curves.values() for value in curve.values()]
                axes.set_ylim(_limits(values, 1.0 if quantity in SHARES else math.inf))
        if published:
            entries["published"] = Line2D([], [], color="grey", linestyle="--", label="published")
        figure.suptitle(title, x=0.02, ha="left")
        figure.legend(handles=list(entries.values()), loc="lower left", ncols=len(entries))
        figure.subplots_adjust(left=0.1, right=0.96, top=0.86, bottom=0.13, hspace=0.35)
        figure.savefig(written, format="svg", metadata={"Title": title, "Date": None})
    return written.getvalue()


def _curves(
    quantity: str, names: Collection[str], epochs: Sequence[Epoch], published: Published
) -> Iterator[tuple[tuple[str, bool], Mapping[int, float]]]:
    """Yield the finite values of each metric of a quantity by epoch; published ones (True) come
    first."""
    for prefix in COLORS:
        name = f"{prefix}_{quantity}" if prefix else quantity
        theirs = {number: of[name] for number, of in published.items() if name in of}
        ours = {epoch.number: epoch.metrics[name] for epoch in epochs if name in epoch.metrics}
        if prefix == "batch" and f"train_{quantity}" in names:
            continue
        for found, dashed in ((theirs, True), (ours, False)):
            curve = {n: value for n, value in found.items() if math.isfinite(value)}
            if curve:
                yield (name, dashed), curve


def _limits(values: Collection[float], most: float) -> tuple[float, float]:
    """Return the ends of an axis around the values, at most `most` unless a value is above, and at
    least 0 unless one is below."""
    lowest, highest = min(values), max(values)
    middle = (lowest + highest) / 2
    half = max((highest - lowest) * 1.1, LEAST, abs(highest) * LEAST_SHARE) / 2
    return max(middle - half, min(lowest, 0.0)), min(middle + half, max(most, highest))
