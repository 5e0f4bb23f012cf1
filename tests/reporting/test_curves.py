"""The picture of a trial's learning curves, read back as what it draws."""

import math
import xml.etree.ElementTree as ET

import pytest

from search.reporting.curves import COLORS, svg
from search.study.epoch import Epoch

SVG = "{http://www.w3.org/2000/svg}"


def _epoch(number: int, **figures: float) -> Epoch:
    return Epoch(number=number, batch_loss=1.0, seconds=1.0, **figures)


def _lines(picture: bytes) -> list[tuple[str, bool, list[tuple[float, float]]]]:
    """Return colour, whether it is dashed, and the points of each line, in the order drawn."""
    found = []
    for group in ET.fromstring(picture).iter(f"{SVG}g"):
        if (line := group.find(f"{SVG}polyline")) is not None:
            points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
            found.append((group.attrib["stroke"], "stroke-dasharray" in line.attrib, points))
    return found  # type: ignore[return-value]  # pairs


def test_train_and_test_are_drawn_in_one_plot_for_loss_and_for_accuracy() -> None:
    epochs = [
        _epoch(n, train_loss=2 / n, train_accuracy=1 - 1 / n, test_loss=1.0, test_accuracy=0.5)
        for n in (1, 2, 4)
    ]
    lines = _lines(svg("trial 7", epochs, {}))
    assert [color for color, _, _ in lines] == [COLORS["train"], COLORS["test"]] * 2
    accuracy, _, loss, flat = [points for _, _, points in lines]
    xs, ys = zip(*loss, strict=True)
    assert xs[1] - xs[0] == pytest.approx((xs[2] - xs[1]) / 2, abs=0.2)  # epochs to scale
    assert ys[0] < ys[1] < ys[2]  # a falling loss goes down, which is towards higher y
    assert ys[1] - ys[0] == pytest.approx(2 * (ys[2] - ys[1]), abs=0.3)  # 2, 1, 0.5
    assert len({y for _, y in flat}) == 1
    assert accuracy[0][1] > accuracy[1][1] > accuracy[2][1]


def test_published_curves_are_dashed_and_go_as_far_as_they_go() -> None:
    published = {n: {"test_loss": 1.0, "test_accuracy": 0.5} for n in range(1, 11)}
    epochs = [_epoch(1, test_loss=1.0, test_accuracy=0.5)]
    lines = _lines(svg("trial 7: base", epochs, published))
    tested = [(d, len(points)) for color, d, points in lines if color == COLORS["test"]]
    assert tested == [(True, 10), (False, 1)] * 2


def test_a_loss_that_is_not_finite_leaves_the_others_readable() -> None:
    losses = (1.0, math.nan, math.inf, 0.5)
    epochs = [_epoch(n, test_loss=x, test_accuracy=0.1) for n, x in enumerate(losses, start=1)]
    picture = svg("trial 7", epochs, {})
    assert [len(points) for _, _, points in _lines(picture)] == [4, 4, 2]
    assert b"nan" not in picture
    assert b"inf" not in picture


def _levels(picture: bytes) -> list[list[str]]:
    """Return the levels of the grid of accuracy and of that of loss, from the lowest up."""
    panels = ET.fromstring(picture).findall(f"{SVG}g")
    texts = [panel.findall(f"{SVG}text[@text-anchor='end']") for panel in panels]
    return [[text.text or "" for text in found] for found in texts if found]


@pytest.mark.parametrize(
    ("accuracy", "loss", "ends"),
    [
        (1.0, 0.0, [("0.95", "1.00"), ("0.00", "0.05")]),
        (0.5, 1e17, [("0.47", "0.53"), ("1e+17", "1e+17")]),
    ],
)
def test_the_grid_ends_where_figures_can_be(
    accuracy: float, loss: float, ends: list[tuple[str, str]]
) -> None:
    epoch = _epoch(1, test_accuracy=accuracy, train_loss=loss, test_loss=loss)
    assert [(found[0], found[-1]) for found in _levels(svg("trial 7", [epoch], {}))] == ends


def test_a_name_is_no_markup() -> None:
    picture = svg("<script>alert(1)</script> & co", [_epoch(1, test_loss=1, test_accuracy=0)], {})
    assert ET.fromstring(picture).findtext(f"{SVG}title") == "<script>alert(1)</script> & co"


def test_where_the_train_loss_was_not_measured_that_of_the_batches_is_drawn() -> None:
    epochs = [
        Epoch(number=n, batch_loss=2 / n, seconds=1.0, test_loss=1.0, test_accuracy=0.5)
        for n in (1, 2, 4)
    ]
    lines = _lines(svg("trial 7", epochs, {}))
    assert [color for color, _, _ in lines] == [COLORS["test"], COLORS["batch"], COLORS["test"]]
    ys = [y for _, y in lines[1][2]]
    assert ys[1] - ys[0] == pytest.approx(2 * (ys[2] - ys[1]), abs=0.3)  # 2, 1, 0.5
