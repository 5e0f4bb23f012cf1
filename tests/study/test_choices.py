import dataclasses

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from search.study.choices import (
    FIELDS,
    RANGES,
    Choices,
    check_params,
    check_ranges,
    parse_params,
    written,
)

from search.errors import UserError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bn1", "on"),
        ("bn2", None),
        ("extra_fc", 1),
        ("fc_bias", "true"),
        ("optimizer", "adam"),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", True),
        ("weight_decay", -1e-9),
        ("weight_decay", float("inf")),
        ("schedule", "linear"),
    ],
)
def test_nonsense_is_refused_with_its_field_and_value(
    base: Choices, field: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"{field} must be .*not {value!r}"):
        dataclasses.replace(base, **{field: value})  # type: ignore[arg-type]


def test_every_field_is_sampled_for_every_trial_and_comes_back_from_optuna() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        choices = Choices.suggest(trial, RANGES)
        assert tuple(trial.params) == FIELDS
        assert Choices(**study.trials[-1].params) == choices


def test_the_ranges_are_those_of_the_design() -> None:
    assert dict(RANGES) == {
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


def test_fixed_values_are_read_as_a_user_writes_them() -> None:
    text = "lr=2e-2 optimizer=SGD extra_fc=True weight_decay=0"
    assert parse_params(text, RANGES) == {
        "extra_fc": True,
        "optimizer": "SGD",
        "lr": 0.02,
        "weight_decay": 0.0,
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("momentum=0.9", "unknown parameter 'momentum'; known: bn1, bn2"),
        ("optimizer=Lion", "optimizer must be one of SGD, .*not Lion"),
        ("lr=1", "lr must be a number from 0.0001 to 0.1, not 1"),
        ("lr=fast", "lr must be a number .*not fast"),
        ("lr=nan", "lr must be a number"),
        ("extra_fc=1", "extra_fc must be one of false, true, not 1"),
        ("weight_decay=0.5", "weight_decay must be one of 0, 1e-06"),
        ("lr=0.1000000001", "lr must be a number from 0.0001 to 0.1, not 0.1000000001$"),
        ("lr=0.09999999e1", "not 0.9999999$"),
        ("lr=1e400", "not 1e400$"),
        ("lr=-inf", "not -inf$"),
        ("lr=1_0", "not 1_0$"),
        ("lr=0x10", "not 0x10$"),
        ("lr=0,02", "not 0,02$"),
        ("lr=０.０2", "not ０.０2$"),
        ("lr=1e-4\u00a00.01", "lr must be a number|NAME=VALUE"),
        ("bn1=True", "bn1 must be one of off, plain, affine, not true"),
        ("extra_fc=yes", "extra_fc must be one of false, true, not yes"),
        ("weight_decay=1.0000001e-5", "not 1.0000001e-05$"),
        ("LR=0.01", "unknown parameter 'LR'"),
        ("lr=0.01 lr=0.02", "lr appears twice"),
        ("lr 0.01", "NAME=VALUE"),
        ("", "no parameter"),
    ],
)
def test_fixed_values_that_do_not_fit_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse_params(text, RANGES)


def test_a_value_between_the_steps_of_a_range_is_refused() -> None:
    ranges = {**RANGES, "lr": FloatDistribution(0.01, 0.09, step=0.02)}
    assert parse_params("lr=0.07", ranges) == {"lr": 0.07}
    with pytest.raises(UserError, match=r"from 0.01 to 0.09 in steps of 0.02, not 0.02$"):
        parse_params("lr=0.02", ranges)


def test_fixed_values_are_written_with_all_their_digits() -> None:
    params = {"lr": 0.012345678901234567, "extra_fc": True, "weight_decay": 0.0}
    text = written(params)
    assert text == "lr=0.012345678901234567 extra_fc=true weight_decay=0"
    assert parse_params(text, RANGES) == params


def test_a_variant_must_name_every_parameter(base: Choices) -> None:
    params = base.params()
    check_params(params, RANGES, complete=True)
    del params["schedule"], params["bn2"]
    with pytest.raises(UserError, match="no value for bn2, schedule"):
        check_params(params, RANGES, complete=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dropout": FloatDistribution(0, 1)}, "'dropout' is unknown"),
        ({"lr": FloatDistribution(-1, 1)}, "lr must be a finite number above 0, not -1"),
        ({"bn1": CategoricalDistribution(("off", "on"))}, "bn1 must be one of .*not 'on'"),
        ({"lr": optuna.distributions.IntDistribution(1, 2)}, "lr must be a Categorical"),
    ],
)
def test_ranges_that_no_field_can_take_are_refused(
    change: dict[str, optuna.distributions.BaseDistribution], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        check_ranges({**RANGES, **change})


def test_a_missing_range_is_refused() -> None:
    with pytest.raises(UserError, match="'lr' has no range"):
        check_ranges({name: range_ for name, range_ in RANGES.items() if name != "lr"})
