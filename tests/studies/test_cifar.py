"""The course's study: its choices, its ranges, and the lines that it prints."""

import dataclasses
import shutil
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

import studies.cifar
from search.analysis.answer import answer
from search.database.database import Database
from search.database.snapshot import Overview
from search.errors import UserError
from search.study.space import Space
from search.study.study_file import load
from studies.cifar import BEST_KNOWN, Choices, course_study, epoch_text
from tests.support.epochs import epoch


def test_the_ranges_are_those_of_the_design() -> None:
    assert Space(Choices).ranges == {
        "bn1": CategoricalDistribution(("off", "plain", "affine")),
        "bn2": CategoricalDistribution(("off", "plain", "affine")),
        "extra_fc": CategoricalDistribution((False, True)),
        "conv_bias": CategoricalDistribution((False, True)),
        "fc_bias": CategoricalDistribution((False, True)),
        "optimizer": CategoricalDistribution(
            ("SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Adamax")
        ),
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
        "weight_decay": CategoricalDistribution((0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
        "schedule": CategoricalDistribution(("constant", "cosine")),
    }


def test_the_best_known_choices_are_the_winner_of_the_search_that_is_shipped(
    tmp_path: Path,
) -> None:
    shipped = Path(studies.cifar.__file__).with_name("search.db")
    copy = shutil.copy(shipped, tmp_path)
    with closing(Database(f"sqlite:///{copy}")) as database:
        overview = Overview.of_study(database, "cifar")
        found = answer(database, overview)
    assert found.best is not None
    assert found.confirmed is not None
    assert found.confirmed.unused.n == 5
    assert Choices(**found.best.params) == BEST_KNOWN
    assert load("cifar").optional_variants == {"best-known": BEST_KNOWN}
    assert (overview.n_recorded, len(overview.finished)) == (400, 57)


def test_every_field_is_sampled_for_every_trial_and_comes_back_from_optuna() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    space = Space(Choices)
    assert not space.has_branches
    for _ in range(20):
        trial = study.ask()
        choices = space.suggest(trial)
        assert tuple(trial.params) == space.names
        assert Choices(**study.trials[-1].params) == choices


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", True),
        ("lr", "fast"),
        ("weight_decay", -1e-9),
        ("weight_decay", float("inf")),
    ],
)
def test_a_rate_that_no_optimizer_takes_is_refused(
    base: Choices, field: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"{field} must be a finite number .*not {value!r}"):
        dataclasses.replace(base, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("bn1", "on", "on"),
        ("bn2", None, "None"),
        ("extra_fc", 1, "1"),
        ("fc_bias", "true", "true"),
        ("optimizer", "adam", "adam"),
        ("schedule", "linear", "linear"),
    ],
)
def test_a_variant_of_nonsense_is_refused_with_its_field_and_value(
    base: Choices, field: str, value: object, text: str
) -> None:
    odd = dataclasses.replace(base, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"^variant odd: {field} must be one of .*, not {text}$"):
        course_study("x", dataset="digits", variants={"odd": odd})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dropout": FloatDistribution(0, 1)}, "'dropout' is unknown"),
        ({"lr": FloatDistribution(-1, 1)}, "lr must be a finite number above 0, not -1"),
        ({"lr": CategoricalDistribution((0.1, "fast"))}, "lr must be a finite number .*not 'fast'"),
        ({"weight_decay": FloatDistribution(-1, 0)}, "weight_decay must be .*at least 0, not -1"),
        ({"bn1": CategoricalDistribution(("off", "on"))}, "bn1 must be one of .*, not on"),
        ({"lr": optuna.distributions.IntDistribution(1, 2)}, "lr must be a Categorical"),
    ],
)
def test_ranges_that_no_field_can_take_are_refused(
    change: dict[str, BaseDistribution], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        course_study("x", dataset="digits", ranges=change)


def test_an_epoch_is_printed_as_in_the_report() -> None:
    assert epoch_text(epoch(2, batch_loss=1.5, test_loss=1.25, test_accuracy=0.5)) == (
        "EPOCH: 2 batch_loss: 1.50000 test_loss: 1.25000 test_acc: 0.50000"
    )
    detailed = {"batch_loss": 1.5, "train_loss": 1.0, "train_accuracy": 0.75}
    held_out = {"validation_loss": 1.25, "validation_accuracy": 0.5}
    assert epoch_text(epoch(3, **detailed, **held_out)) == (
        "EPOCH: 3 train_loss: 1.00000 train_acc: 0.75000 validation_loss: 1.25000 "
        "validation_acc: 0.50000"
    )
