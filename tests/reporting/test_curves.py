"""The picture of a trial's learning curves, read back as what it draws."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import pytest

from search.reporting import curves
from search.study.metrics import Epoch
from tests.support.epochs import epoch

SVG = "{http://www.w3.org/2000/svg}"


def _epoch(number: int, **metrics: float) -> Epoch:
    return epoch(number, batch_loss=1.0, **metrics)


def _svg(title: str, epochs: Sequence[Epoch], published: curves.Published) -> bytes:
    return curves.svg(title, epochs, published, "test_accuracy")


def _lines(picture: bytes) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each curve by its id, in the order drawn; y from the top down."""
    found = {}
    for group in ET.fromstring(picture).iter(f"{SVG}g"):
        if re.fullmatch(r"(published_)?[a-z]+_(loss|accuracy)", group.attrib.get("id", "")):
            path = group.find(f"{SVG}path")
            assert path is not None
            assert ("stroke-dasharray" in path.attrib["style"]) == (
                "published" in group.attrib["id"]
            )
            points = re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"])
            found[group.attrib["id"]] = [(float(x), float(y)) for x, y in points]
    return found


def test_train_and_test_are_drawn_in_one_plot_for_loss_and_for_accuracy() -> None:
    epochs = [
        _epoch(n, train_loss=2 / n, train_accuracy=1 - 1 / n, test_loss=1.0, test_accuracy=0.5)
        for n in (1, 2, 4)
    ]
    lines = _lines(_svg("trial 7", epochs, {}))
    assert list(lines) == ["train_accuracy", "test_accuracy", "train_loss", "test_loss"]
    xs, ys = zip(*lines["train_loss"], strict=True)
    assert xs[1] - xs[0] == pytest.approx((xs[2] - xs[1]) / 2)  # epochs to scale
    assert ys[0] < ys[1] < ys[2]  # a falling loss goes down, which is towards higher y
    assert ys[1] - ys[0] == pytest.approx(2 * (ys[2] - ys[1]))  # 2, 1, 0.5
    assert len({y for _, y in lines["test_loss"]}) == 1
    accuracy = lines["train_accuracy"]
    assert accuracy[0][1] > accuracy[1][1] > accuracy[2][1]


def test_published_curves_are_dashed_and_go_as_far_as_they_go() -> None:
    published = {n: {"test_loss": 1.0, "test_accuracy": 0.5} for n in range(1, 11)}
    epochs = [_epoch(1, test_loss=1.0, test_accuracy=0.5)]
    lines = _lines(_svg("trial 7: base", epochs, published))
    for name in ("test_accuracy", "test_loss"):
        assert (len(lines[f"published_{name}"]), len(lines[name])) == (10, 1)


def test_a_loss_that_is_not_finite_leaves_the_others_readable() -> None:
    losses = (1.0, math.nan, math.inf, 0.5)
    epochs = [_epoch(n, test_loss=x, test_accuracy=0.1) for n, x in enumerate(losses, start=1)]
    picture = _svg("trial 7", epochs, {})
    lengths = {name: len(points) for name, points in _lines(picture).items()}
    assert lengths == {"test_accuracy": 4, "batch_loss": 4, "test_loss": 2}
    assert b"nan" not in picture
    assert b"inf" not in picture


@pytest.mark.parametrize(
    ("accuracy", "loss"), [(1.0, 0.0), (0.5, 1e17), (0.0, 1e-300)], ids=["ends", "huge", "tiny"]
)
def test_figures_at_their_ends_are_drawn_inside_their_panel(accuracy: float, loss: float) -> None:
    epochs = [_epoch(1, test_accuracy=accuracy, train_loss=loss, test_loss=loss)]
    lines = _lines(_svg("trial 7", epochs, {}))
    (_, upper), (_, lower) = lines["test_accuracy"][0], lines["test_loss"][0]
    assert 0 < upper < lower < 480 * 0.75  # in points


def _levels(picture: bytes) -> list[list[float]]:
    """Return the levels of the grid of accuracy and of that of loss, from the lowest up."""
    groups = {group.attrib.get("id"): group for group in ET.fromstring(picture).iter(f"{SVG}g")}
    axes = [groups[f"matplotlib.axis_{number}"] for number in (2, 4)]
    return [[float(text.text or "") for text in axis.iter(f"{SVG}text")] for axis in axes]


def test_a_single_epoch_is_no_drama_and_the_grid_ends_where_figures_can_be() -> None:
    for value, least, most in ((0.5, 0.47, 0.53), (1.0, 0.97, 1.0), (0.0, 0.0, 0.03)):
        levels, _ = _levels(_svg("trial 7", [_epoch(1, test_accuracy=value)], {}))
        assert least <= levels[0] < levels[-1] <= most
    _, levels = _levels(_svg("trial 7", [_epoch(1, train_loss=0.0)], {}))
    assert (levels[0], levels[-1] > 0) == (0.0, True)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script> & co", "$x$ and $\\frac{", "試験 🎉", "a_b^c"]
)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    drawn = ET.fromstring(_svg(name, [_epoch(1, test_loss=1, test_accuracy=0)], {}))
    assert drawn.findtext(f"{SVG}title") == name
    assert name in [text.text for text in drawn.iter(f"{SVG}text")]


def test_the_same_figures_give_the_same_bytes_in_any_thread() -> None:
    trials = [[_epoch(k, test_loss=k, test_accuracy=1 / k) for k in range(1, n)] for n in (3, 5)]
    alone = [_svg("trial 7", epochs, {}) for epochs in trials]
    with ThreadPoolExecutor(4) as threads:
        drawn = threads.map(lambda epochs: _svg("trial 7", epochs, {}), trials * 4)
        assert list(drawn) == alone * 4


def test_the_settings_of_others_change_nothing() -> None:
    epochs = [_epoch(1, test_loss=1, test_accuracy=0)]
    plain = _svg("trial 7", epochs, {})
    with matplotlib.rc_context({"figure.facecolor": "black", "text.usetex": True}):
        assert _svg("trial 7", epochs, {}) == plain
        assert matplotlib.rcParams["figure.facecolor"] == "black"


def test_where_the_train_loss_was_not_measured_that_of_the_batches_is_drawn() -> None:
    epochs = [epoch(n, batch_loss=2 / n, test_loss=1.0, test_accuracy=0.5) for n in (1, 2, 4)]
    lines = _lines(_svg("trial 7", epochs, {}))
    assert list(lines) == ["test_accuracy", "batch_loss", "test_loss"]
    ys = [y for _, y in lines["batch_loss"]]
    assert ys[1] - ys[0] == pytest.approx(2 * (ys[2] - ys[1]))  # 2, 1, 0.5
