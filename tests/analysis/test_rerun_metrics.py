"""Spreads over seeds, and what they say about a published curve."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from search.analysis.published import spreads, verdict
from search.analysis.rerun_metrics import COLUMNS, Repeats, Spread, merged, read, trained_as
from search.errors import UserError
from search.reporting.seed_tables import comparison
from search.study.metrics import Epoch
from search.study.study import Study
from studies.cifar import course_study
from tests.support.epochs import epoch

PUBLISHED = """\
variant,epoch,train_loss,train_accuracy,test_loss,test_accuracy
question-1,1,1.0,0.6,1.1,{first}
question-1,2,0.9,0.7,1.0,{second}
"""


def _run(*accuracies: float) -> list[Epoch]:
    return [
        epoch(
            number,
            batch_loss=1.0,
            train_loss=0.5,
            train_accuracy=0.8,
            test_loss=0.6,
            test_accuracy=accuracy,
        )
        for number, accuracy in enumerate(accuracies, start=1)
    ]


@pytest.fixture
def runs() -> Repeats:
    return {"question-1": {0: _run(0.60, 0.70), 1: _run(0.61, 0.72), 2: _run(0.62, 0.71)}}


def _published(tmp_path: Path, first: float, second: float) -> Path:
    path = tmp_path / "published.csv"
    path.write_text(PUBLISHED.format(first=first, second=second))
    return path


def _study(path: Path, study: Study) -> Study:
    return course_study("x", dataset="digits", variants=study.variants, published=path)


def test_a_spread_has_the_deviation_of_a_single_run_and_the_interval_of_one_more() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.n, spread.mean, spread.sd) == (3, 2.0, 1.0)
    assert (spread.lowest, spread.highest) == (1.0, 3.0)
    low, high = spread.prediction_interval(0.95)
    # Student's t of 2 degrees of freedom at 97.5 % is 4.302653 in any table.
    assert high - 2 == pytest.approx(4.302653 * math.sqrt(4 / 3), abs=1e-5)
    assert low == pytest.approx(4 - high)


def test_one_run_says_nothing_of_another() -> None:
    spread = Spread.of([0.7])
    assert math.isnan(spread.sd)
    assert spread.prediction_interval(0.95) == (-math.inf, math.inf)


def test_figures_are_gathered_by_epoch(runs: Repeats) -> None:
    found = spreads(runs, "question-1", "test_accuracy")
    assert [round(found[epoch].mean, 10) for epoch in (1, 2)] == [0.61, 0.71]
    assert spreads(runs, "question-1", "validation_loss") == {}
    assert spreads(runs, "base", "test_loss") == {}


@pytest.mark.parametrize(
    # sd 0.01, n 3, two epochs: t of 2 degrees at 98.75 % is 6.205, so ± 6.205·0.01·√(4/3) = 0.0717.
    ("first", "second", "outside", "within", "text"),
    [
        (0.615, 0.705, [], 2, "inside"),
        (0.68, 0.70, [], 1, "inside"),
        (0.683, 0.70, [1], 1, "outside at epoch 1"),
        (0.53, 0.80, [1, 2], 0, "outside at epoch 1, 2"),
    ],
)
def test_a_published_curve_is_judged_by_the_interval_of_one_more_run(
    runs: Repeats,
    study: Study,
    tmp_path: Path,
    first: float,
    second: float,
    outside: list[int],
    within: int,
    text: str,
) -> None:
    trained = _study(_published(tmp_path, first, second), study)
    found = verdict(runs, trained, "question-1")
    assert found is not None
    assert (found.outside, found.within, found.compared) == (outside, within, 2)
    assert found.text == text
    assert (found.best.n, found.published_best) == (3, max(first, second))
    assert verdict(runs, trained, "question-3") is None


def test_where_lower_is_better_the_best_epoch_has_the_lowest(study: Study, tmp_path: Path) -> None:
    losses = _study(_published(tmp_path, 0.6, 0.7), study).changed(
        {"metric": "test_loss", "direction": "minimize"}
    )
    runs = {
        "question-1": {
            k: [epoch(1, test_loss=0.9 + k), epoch(2, test_loss=1.1 + k)] for k in (0, 1)
        }
    }
    found = verdict(runs, losses, "question-1")
    assert found is not None
    assert (found.best.lowest, found.best.highest, found.published_best) == (0.9, 1.9, 1.0)


def test_tables_hold_the_published_figures_beside_ours(
    runs: Repeats, study: Study, tmp_path: Path
) -> None:
    console = Console(width=130, record=True)
    console.print(comparison(runs, _study(_published(tmp_path, 0.5, 0.71), study)))
    text = console.export_text()
    assert "question-1, 3 seeds" in text
    row = r"test accuracy +[|] +1 [|] +0.5000 [|] +0.6100 [|] +0.0100 [|] +0.6000 [|] +0.6200"
    assert re.search(row, text)
    assert "0.7100 ± 0.0100 (0.7000 to 0.7200)" in text
    assert "outside at epoch 1" in text
    assert "Rule:" in text
    assert "question-3, " not in text


def test_what_has_no_published_figures_is_told_by_its_final_metric(
    runs: Repeats, study: Study, tmp_path: Path
) -> None:
    both = _study(_published(tmp_path, 0.5, 0.71), study).changed(
        {"epochs": 2, "optional_variants": {"slower": study.variants["question-3"]}}
    )
    console = Console(width=130, record=True)
    console.print(comparison({**runs, "slower": {0: _run(0.6, 0.65), 1: _run(0.6, 0.66)}}, both))
    text = console.export_text()
    assert re.search(r"slower +[|] +2 [|] +0.6550 ± 0.0071 \(0.6500 to 0.6600\)", text)
    assert re.search(r"question-1 +[|] +outside at epoch 1", text)
    assert not re.search(r"question-1 +[|] +3 ", text)


def test_where_figures_cannot_be_compared_the_reason_stands_in_place_of_a_verdict(
    runs: Repeats, study: Study, tmp_path: Path
) -> None:
    few = _study(_published(tmp_path, 0.5, 0.71), study).changed({"images": 160, "epochs": 2})
    console = Console(width=200, record=True)
    console.print(comparison(runs, few))
    text = " ".join(console.export_text().split())
    assert "question-1, 3 seeds, the first 160 of 1438 images, 2 epochs; not comparable" in text
    assert "not comparable: trained on the first 160 of 1438 images" in text
    assert "our best of 2 epochs" in text
    assert not re.search("inside|outside|Rule:", text)


TRAINED = {
    "dataset": "digits",
    "batch_size": 32,
    "images": None,
    "epochs": 2,
    "metric": "test_accuracy",
}


def _file(path: Path, *trained: object) -> Path:
    """Write runs of two epochs each, one for each of the settings."""
    with path.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow([*COLUMNS, "batch_loss", "validation_loss", "test_loss", "test_accuracy"])
        for repeat, settings in enumerate(trained):
            for number in (1, 2):
                which = ["base", repeat, 7, number, 1.5, json.dumps(settings)]
                rows.writerow([*which, 1.25, "", 1.0, 0.5])
    return path


def test_a_file_of_runs_says_how_they_were_trained(study: Study, tmp_path: Path) -> None:
    settings = {"images": 500, "epochs": 3, "batch_size": 16, "metric": "validation_accuracy"}
    few = _file(tmp_path / "few.csv", TRAINED | settings)
    changes = {"images": 500, "epochs": 3, "batch_size": 16}
    assert trained_as([few, few], study) == study.changed(changes).select("validation")
    every = _file(tmp_path / "all.csv", TRAINED)
    assert trained_as([every], study) == study.changed({"images": None, "epochs": 2})
    in_another_order = _file(tmp_path / "order.csv", dict(reversed(TRAINED.items())))
    assert trained_as([every, in_another_order], study) == trained_as([every], study)
    assert trained_as([], study) is study
    metrics = {"batch_loss": 1.25, "test_loss": 1.0, "test_accuracy": 0.5}
    assert read(every) == {"base": {0: [epoch(n, seconds=1.5, **metrics) for n in (1, 2)]}}


def test_files_of_runs_that_were_trained_differently_are_not_put_together(
    study: Study, tmp_path: Path
) -> None:
    few = _file(tmp_path / "few.csv", TRAINED | {"images": 500})
    every = _file(tmp_path / "all.csv", TRAINED)
    with pytest.raises(UserError, match=r"few.csv: .*all.csv .*: images 500 and all; compare"):
        trained_as([every, few], study)
    more = _file(tmp_path / "more.csv", TRAINED | {"noise": 0.5})
    with pytest.raises(UserError, match=r"more.csv: .*all.csv .* differently: noise 0.5 and "):
        trained_as([every, more], study)
    mixed = _file(tmp_path / "mixed.csv", TRAINED | {"images": 500}, TRAINED | {"images": 600})
    with pytest.raises(UserError, match=r"mixed.csv: .* images 600 and 500"):
        trained_as([mixed], study)
    other = _file(tmp_path / "other.csv", TRAINED | {"dataset": "cifar10"})
    with pytest.raises(UserError, match=r"other.csv: its re-runs have the dataset cifar10"):
        trained_as([other], study)
    for odd in (3, "many", None):
        path = _file(tmp_path / "odd.csv", odd)
        with pytest.raises(UserError, match=r"odd.csv: not a file written by --out"):
            trained_as([path], study)
    path.write_text(path.read_text().replace("null", "{"))
    with pytest.raises(UserError, match=r"odd.csv: not a file written by --out"):
        trained_as([path], study)


def test_parts_from_several_machines_are_put_together(runs: Repeats) -> None:
    other: Repeats = {"question-1": {3: _run(0.6)}, "base": {0: _run(0.5)}}
    together = merged([runs, other])
    assert {name: sorted(found) for name, found in together.items()} == {
        "question-1": [0, 1, 2, 3],
        "base": [0],
    }


@pytest.mark.parametrize("content", [None, "name,repeat\nbase,0\n"])
def test_a_file_that_holds_no_runs_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "runs.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="not a file written by --out"):
        read(path)
