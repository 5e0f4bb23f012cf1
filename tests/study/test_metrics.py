import pytest

from search.study.metrics import Epoch, Objective, number, split, words
from tests.support.epochs import epoch


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_accuracy", ("test", "accuracy")),
        ("validation_log_loss", ("validation", "log_loss")),
        ("val_auc", ("val", "auc")),
        ("batch_loss", ("batch", "loss")),
        ("auc", ("", "auc")),
        ("log_loss", ("", "log_loss")),
        ("testing_loss", ("", "testing_loss")),
        ("test", ("", "test")),
        ("test_", ("", "test_")),
    ],
)
def test_a_metrics_name_begins_with_its_split_if_it_has_one(
    name: str, expected: tuple[str, str]
) -> None:
    assert split(name) == expected


def test_a_metric_is_displayed_in_words() -> None:
    assert words("validation_log_loss") == "validation log loss"
    found = Objective(metric="validation_log_loss", direction="minimize")
    assert (found.words, found.quantity) == ("validation log loss", "log loss")


def test_higher_scores_are_better_in_both_directions() -> None:
    of = epoch(1, auc=0.25)
    up, down = (
        Objective(metric="auc", direction="maximize"),
        Objective(metric="auc", direction="minimize"),
    )
    assert (up.value(of), down.value(of)) == (0.25, 0.25)
    assert (up.score(0.25), down.score(0.25)) == (0.25, -0.25)
    assert down.score(down.score(0.25)) == 0.25


def test_an_epoch_is_printed_with_its_metrics_in_the_order_of_the_training() -> None:
    of = Epoch(number=3, metrics={"test_loss": 1.5, "auc": 0.1234567}, seconds=2.0)
    assert str(of) == "EPOCH: 3 test_loss: 1.50000 auc: 0.12346"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0.0000"),
        (0.74936, "0.7494"),
        (-1.5, "-1.5000"),
        (0.001, "0.0010"),
        (0.00012345, "0.0001234"),
        (99999.0, "99999.0000"),
        (123456.0, "1.235e+05"),
    ],
)
def test_a_tiny_or_huge_metric_keeps_its_digits(value: float | None, text: str) -> None:
    assert number(value) == text
