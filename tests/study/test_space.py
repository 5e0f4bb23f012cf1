from dataclasses import dataclass, make_dataclass
from typing import Annotated, Literal

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial, create_trial

from search.errors import UserError
from search.study.space import Space, Value, params_text, range_text, written


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A class without choices of its own."""


@dataclass(frozen=True, kw_only=True)
class Cosine:
    warmup: Annotated[int, IntDistribution(0, 5)]


@dataclass(frozen=True, kw_only=True)
class SGD:
    lr: Annotated[float, FloatDistribution(1e-3, 1e-1, log=True)]
    nesterov: bool
    schedule: Plain | Cosine


@dataclass(frozen=True, kw_only=True)
class Adam:
    lr: Annotated[float, FloatDistribution(1e-4, 1e-2, log=True)]


@dataclass(frozen=True, kw_only=True)
class Choices:
    width: Annotated[int, IntDistribution(16, 64, step=8)]
    dropout: Annotated[float, FloatDistribution(0.0, 0.5)]
    norm: Literal["batch", "group"]
    layers: Literal[1, 2]
    decay: Annotated[float, CategoricalDistribution((0.0, 1e-5, 1e-4))]
    optimizer: SGD | Adam


GOOD: dict[str, Value] = {
    "width": 24,
    "dropout": 0.25,
    "norm": "group",
    "layers": 2,
    "decay": 1e-4,
    "optimizer": "SGD",
    "optimizer.SGD.lr": 0.05,
    "optimizer.SGD.nesterov": True,
    "optimizer.SGD.schedule": "Cosine",
    "optimizer.SGD.schedule.Cosine.warmup": 3,
}
MADE = Choices(
    width=24,
    dropout=0.25,
    norm="group",
    layers=2,
    decay=1e-4,
    optimizer=SGD(lr=0.05, nesterov=True, schedule=Cosine(warmup=3)),
)
FLAT = {name: value for name, value in GOOD.items() if not name.startswith("optimizer")}


@pytest.fixture
def space() -> Space[Choices]:
    return Space(Choices)


def test_every_field_is_a_parameter_with_the_range_of_its_annotation(space: Space[Choices]) -> None:
    expected = {
        "width": IntDistribution(16, 64, step=8),
        "dropout": FloatDistribution(0.0, 0.5),
        "norm": CategoricalDistribution(("batch", "group")),
        "layers": CategoricalDistribution((1, 2)),
        "decay": CategoricalDistribution((0.0, 1e-5, 1e-4)),
        "optimizer": CategoricalDistribution(("SGD", "Adam")),
        "optimizer.SGD.lr": FloatDistribution(1e-3, 1e-1, log=True),
        "optimizer.SGD.nesterov": CategoricalDistribution((False, True)),
        "optimizer.SGD.schedule": CategoricalDistribution(("Plain", "Cosine")),
        "optimizer.SGD.schedule.Cosine.warmup": IntDistribution(0, 5),
        "optimizer.Adam.lr": FloatDistribution(1e-4, 1e-2, log=True),
    }
    assert space.ranges == expected
    assert space.names == tuple(expected)
    assert space.has_branches
    assert not Space(Adam).has_branches


def test_choices_and_params_stand_for_each_other(space: Space[Choices]) -> None:
    assert space.of(GOOD) == MADE
    assert space.params(MADE) == GOOD
    assert space.suggest(FixedTrial(GOOD)) == MADE


def test_choices_of_a_trial_ignore_what_others_added_to_it(space: Space[Choices]) -> None:
    assert space.of({**GOOD, "optimizer.Adam.lr": 1e-3, "mine": "x"}) == MADE


@pytest.mark.parametrize("name", GOOD)
def test_choices_of_a_trial_that_lacks_a_parameter_are_refused(
    space: Space[Choices], name: str
) -> None:
    with pytest.raises(UserError, match=f"^no value for {name}$"):
        space.of({key: value for key, value in GOOD.items() if key != name})


SAMPLED = {
    Plain: ("optimizer.SGD.lr", "optimizer.SGD.nesterov", "optimizer.SGD.schedule"),
    Cosine: (
        "optimizer.SGD.lr",
        "optimizer.SGD.nesterov",
        "optimizer.SGD.schedule",
        "optimizer.SGD.schedule.Cosine.warmup",
    ),
    Adam: ("optimizer.Adam.lr",),
}
"""The parameters of a branch by the innermost class that a trial takes."""


def test_only_the_class_that_a_trial_takes_is_sampled(space: Space[Choices]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        choices = space.suggest(trial)
        optimizer = choices.optimizer
        taken = type(optimizer.schedule) if isinstance(optimizer, SGD) else Adam
        seen.add(taken)
        assert tuple(trial.params) == (*FLAT, "optimizer", *SAMPLED[taken])
        assert space.of(study.trials[-1].params) == choices
        space.check(trial.params, complete=True)
    assert seen == set(SAMPLED)


def test_what_is_sampled_has_the_fields_types(space: Space[Choices]) -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    choices = space.suggest(trial)
    assert [type(choices.width), type(choices.dropout), type(choices.layers)] == [int, float, int]
    assert choices.width % 8 == 0


def test_fixed_values_are_read_as_a_user_writes_them(space: Space[Choices]) -> None:
    text = " optimizer.SGD.nesterov=True layers=2 width=24  optimizer=SGD optimizer.SGD.lr=5e-2"
    found = space.parse(f"{text} decay=0 norm=batch dropout=0")
    assert found == {
        "width": 24,
        "dropout": 0.0,
        "norm": "batch",
        "layers": 2,
        "decay": 0.0,
        "optimizer": "SGD",
        "optimizer.SGD.lr": 0.05,
        "optimizer.SGD.nesterov": True,
    }
    assert list(found) == [name for name in space.names if name in found]
    assert [type(found[name]) for name in ("width", "dropout", "decay")] == [int, float, float]
    assert type(space.parse("width=2.4e1")["width"]) is int


def test_fixed_values_are_written_with_all_their_digits(space: Space[Choices]) -> None:
    params = {**GOOD, "dropout": 0.012345678901234567}
    text = written(params)
    assert text == (
        "width=24 dropout=0.012345678901234567 norm=group layers=2 decay=0.0001 optimizer=SGD "
        "optimizer.SGD.lr=0.05 optimizer.SGD.nesterov=true optimizer.SGD.schedule=Cosine "
        "optimizer.SGD.schedule.Cosine.warmup=3"
    )
    assert space.parse(text) == params
    assert written({"x": 1.0, "y": None, "z": False}) == "x=1 y=None z=false"


def test_a_category_is_read_as_it_is_displayed() -> None:
    third = Space(Adam, {"lr": CategoricalDistribution((1 / 300, 1e-3))})
    displayed = params_text({"lr": 1 / 300})
    assert displayed == "lr=0.00333333"
    assert third.parse(displayed) == third.parse(written({"lr": 1 / 300})) == {"lr": 1 / 300}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("height=3", "unknown parameter 'height'; known: width, dropout, norm, layers, decay, opt"),
        ("Width=24", "unknown parameter 'Width'"),
        ("optimizer.RMSprop.lr=1", "unknown parameter 'optimizer.RMSprop.lr'"),
        ("norm=layer", "norm must be one of batch, group, not layer$"),
        ("norm=True", "norm must be one of batch, group, not true$"),
        ("layers=3", "layers must be one of 1, 2, not 3$"),
        ("optimizer=Lion", "optimizer must be one of SGD, Adam, not Lion$"),
        ("optimizer=SGD optimizer.SGD.nesterov=1", "nesterov must be one of false, true, not 1$"),
        ("optimizer=SGD optimizer.SGD.nesterov=yes", "must be one of false, true, not yes$"),
        ("dropout=1", "dropout must be a number from 0 to 0.5, not 1$"),
        ("dropout=high", "dropout must be a number from 0 to 0.5, not high$"),
        ("dropout=true", "dropout must be a number from 0 to 0.5, not true$"),
        ("dropout=0.5000000001", "not 0.5000000001$"),
        ("dropout=0.59999999e0", "not 0.59999999$"),
        ("dropout=nan", "dropout must be a number from 0 to 0.5, not nan$"),
        ("dropout=-inf", "not -inf$"),
        ("dropout=1e400", "not 1e400$"),
        ("dropout=0_1", "not 0_1$"),
        ("dropout=0x0", "not 0x0$"),
        ("dropout=0,2", "not 0,2$"),
        ("dropout=０.２", "not ０.２$"),
        ("dropout=0.1\u00a00.2", "must be a number|NAME=VALUE"),
        ("width=25", "width must be a whole number from 16 to 64 in steps of 8, not 25$"),
        ("width=24.5", "width must be a whole number from 16 to 64 in steps of 8, not 24.5$"),
        ("width=72", "width must be a whole number from 16 to 64 in steps of 8, not 72$"),
        ("width=true", "width must be a whole number .*, not true$"),
        ("decay=1.0000001e-5", "decay must be one of 0, 1e-05, 0.0001, not 1.0000001e-05$"),
        ("optimizer.SGD.lr=0.05", "optimizer.SGD.lr needs optimizer=SGD$"),
        ("optimizer=Adam optimizer.SGD.lr=0.05", "optimizer.SGD.lr needs optimizer=SGD$"),
        (
            "optimizer=SGD optimizer.SGD.schedule.Cosine.warmup=3",
            "optimizer.SGD.schedule.Cosine.warmup needs optimizer.SGD.schedule=Cosine$",
        ),
        ("width=24 width=32", "width appears twice in 'width=24 width=32'$"),
        ("width 24", "parameters must be NAME=VALUE, separated by spaces, not 'width'$"),
        ("width= 24", "parameters must be NAME=VALUE, separated by spaces, not 'width='$"),
        ("", "no parameter in ''; give for example 'width=16'$"),
        (" ", "no parameter in ' '; give for example 'width=16'$"),
    ],
)
def test_fixed_values_that_do_not_fit_are_refused(
    space: Space[Choices], text: str, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        space.parse(text)


def test_a_whole_number_that_is_no_int_is_refused(space: Space[Choices]) -> None:
    """Optuna would keep it as it is, and the training would get a float."""
    with pytest.raises(UserError, match=r"width must be a whole number .*, not 24$"):
        space.check({"width": 24.0})
    space.check({"dropout": 0})


def test_a_value_between_the_steps_of_a_range_is_refused() -> None:
    space = Space(Adam, {"lr": FloatDistribution(0.01, 0.09, step=0.02)})
    assert space.parse("lr=0.07") == {"lr": 0.07}
    with pytest.raises(
        UserError, match=r"lr must be a number from 0.01 to 0.09 in steps of 0.02, "
    ):
        space.parse("lr=0.02")


def test_a_fixed_trial_needs_no_value_that_a_sampler_can_draw(space: Space[Choices]) -> None:
    space.check({})
    space.check({"width": 24})
    space.check({"optimizer": "SGD"})
    space.check({"optimizer": "SGD", "optimizer.SGD.lr": 0.05})


@pytest.mark.parametrize("name", [name for name in GOOD if name != "optimizer"])
def test_a_variant_needs_a_value_for_every_parameter(space: Space[Choices], name: str) -> None:
    space.check(GOOD, complete=True)
    rest = {
        key: value for key, value in GOOD.items() if key != name and not key.startswith(f"{name}.")
    }
    with pytest.raises(UserError, match=f"^no value for {name}; a variant needs every parameter$"):
        space.check(rest, complete=True)


def test_a_variant_needs_a_class_for_every_branch(space: Space[Choices]) -> None:
    with pytest.raises(UserError, match="no value for norm, optimizer; a variant needs every"):
        space.check({k: v for k, v in FLAT.items() if k != "norm"}, complete=True)


def test_a_variant_with_a_class_that_is_not_of_the_branch_is_refused(space: Space[Choices]) -> None:
    odd = Choices(**FLAT, optimizer=Cosine(warmup=1))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^optimizer must be one of SGD, Adam, not Cosine$"):
        space.check(space.params(odd), complete=True)


def test_ranges_replace_those_of_the_annotations() -> None:
    ranges = {
        "optimizer.SGD.lr": FloatDistribution(0.01, 0.02),
        "norm": CategoricalDistribution(("batch",)),
        "optimizer": CategoricalDistribution(("SGD",)),
    }
    space = Space(Choices, ranges)
    assert space.ranges == {**Space(Choices).ranges, **ranges}
    assert space.names == Space(Choices).names
    with pytest.raises(UserError, match=r"lr must be a number from 0.01 to 0.02, not 0.05"):
        space.check({**GOOD, "norm": "batch"})
    with pytest.raises(UserError, match="norm must be one of batch, not group"):
        space.parse("norm=group")
    with pytest.raises(UserError, match="optimizer must be one of SGD, not Adam"):
        space.parse("optimizer=Adam")


def test_a_number_may_have_any_range_of_its_type() -> None:
    space = Space(
        Choices,
        {
            "width": IntDistribution(1, 1000),
            "dropout": CategoricalDistribution((0, 0.9)),
            "decay": FloatDistribution(0, 1),
        },
    )
    space.check({"width": 999, "dropout": 0.9, "decay": 0.5})


@pytest.mark.parametrize(
    ("name", "range_", "complaint"),
    [
        ("hight", IntDistribution(1, 2), "ranges: 'hight' is unknown; known: width, dropout, norm"),
        (
            "optimizer.lr",
            FloatDistribution(1e-3, 1e-2),
            "ranges: 'optimizer.lr' is unknown; known: width",
        ),
        (
            "width",
            FloatDistribution(1, 2),
            "ranges: width must be a CategoricalDistribution or an IntDistribution, not FloatDis",
        ),
        (
            "dropout",
            IntDistribution(0, 1),
            "ranges: dropout must be a CategoricalDistribution or a FloatDistribution, not IntDis",
        ),
        (
            "norm",
            IntDistribution(1, 2),
            "ranges: norm must be a CategoricalDistribution, not IntDistribution(",
        ),
        (
            "optimizer.SGD.nesterov",
            FloatDistribution(0, 1),
            "ranges: optimizer.SGD.nesterov must be a CategoricalDistribution, not FloatDistrib",
        ),
        (
            "width",
            CategoricalDistribution((16, 0.5)),
            "ranges: width must be a whole number, not 0.5",
        ),
        (
            "dropout",
            CategoricalDistribution((0.1, "x")),
            "ranges: dropout must be a finite number, not x",
        ),
        (
            "dropout",
            CategoricalDistribution((float("nan"),)),
            "ranges: dropout must be a finite number, not nan",
        ),
        (
            "dropout",
            FloatDistribution(0, float("inf")),
            "ranges: dropout must be a finite number, not inf",
        ),
        (
            "norm",
            CategoricalDistribution(("batch", "layer")),
            "ranges: norm must be one of batch, group, not layer",
        ),
        ("layers", CategoricalDistribution((True,)), "ranges: layers must be one of 1, 2, not tru"),
        (
            "optimizer.SGD.nesterov",
            CategoricalDistribution((1,)),
            "ranges: optimizer.SGD.nesterov must be true or false, not 1",
        ),
        (
            "optimizer",
            CategoricalDistribution(("Lion",)),
            "ranges: optimizer must be one of SGD, Adam, not Lion",
        ),
    ],
)
def test_ranges_that_no_field_can_take_are_refused(
    name: str, range_: BaseDistribution, complaint: str
) -> None:
    with pytest.raises(UserError) as error:
        Space(Choices, {name: range_})
    assert str(error.value).startswith(complaint)


UNNAMED = make_dataclass("SGD", [("momentum", bool)], frozen=True)


@pytest.mark.parametrize(
    ("hint", "complaint"),
    [
        (float, "choices: x has no range; annotate it as bool, Literal[...], Annotated[float, Flo"),
        (list[int], "choices: x has no range"),
        (Annotated[int, "unit"], "choices: x has no range"),
        (
            Annotated[float, FloatDistribution(0, 1), FloatDistribution(0, 2)],
            "choices: x has no range",
        ),
        (Annotated[complex, FloatDistribution(0, 1)], "choices: x has no range"),
        ("Absent", "choices: the annotations of Odd: name 'Absent' is not defined"),
        (
            Annotated[int, FloatDistribution(0, 1)],
            "choices: x must be a CategoricalDistribution or an IntDistribution, not FloatDistrib",
        ),
        (
            Annotated[bool, IntDistribution(0, 1)],
            "choices: x must be a CategoricalDistribution, not IntDistribution(",
        ),
        (
            Annotated[float, CategoricalDistribution((0.5, "a"))],
            "choices: x must be a finite number, not a",
        ),
        (
            Annotated[int, CategoricalDistribution((1, 2.5))],
            "choices: x must be a whole number, not 2.5",
        ),
        (Annotated[str, CategoricalDistribution(("a", 3))], "choices: x must be text, not 3"),
        (
            Annotated[bool, CategoricalDistribution(("yes",))],
            "choices: x must be true or false, not yes",
        ),
        (
            Literal["off", 0],
            "choices: x has values of several types, off, 0; give one type",
        ),
        (
            Literal["batch", None],
            "choices: x has values of several types, batch, None; give one type",
        ),
        (
            SGD | None,
            "choices: x is a union of SGD, NoneType; only a union of frozen dataclasses is a "
            "branch; give Literal[...] for a few values",
        ),
        (int | str, "choices: x is a union of int, str; only a union"),
        (
            Adam | SGD | UNNAMED,
            "choices: x is a union of two classes named SGD; rename one of them",
        ),
        (
            SGD | make_dataclass("Open", [("y", bool)]),
            "choices: Open must be a frozen dataclass; put @dataclass(frozen=True, kw_only=True)",
        ),
        (
            Adam | make_dataclass("Inner", [("y", int)], frozen=True),
            "choices: x.Inner.y has no range",
        ),
    ],
)
def test_a_field_without_a_range_that_fits_is_refused(hint: object, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        Space(make_dataclass("Odd", [("x", hint)], frozen=True))
    assert str(error.value).startswith(complaint)


def test_choices_are_a_frozen_dataclass_with_fields() -> None:
    with_range = Annotated[float, FloatDistribution(0, 1)]
    for odd in (make_dataclass("Odd", [("x", with_range)]), int, "Choices"):
        with pytest.raises(UserError, match=r"^choices: .* must be a frozen dataclass; put @datac"):
            Space(odd)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^choices: Plain has no fields$"):
        Space(Plain)


def test_a_field_may_hold_a_single_class() -> None:
    space = Space(make_dataclass("One", [("optimizer", Adam)], frozen=True))
    assert space.ranges["optimizer"] == CategoricalDistribution(("Adam",))
    assert space.names == ("optimizer", "optimizer.Adam.lr")


@pytest.mark.parametrize(
    ("range_", "text"),
    [
        (CategoricalDistribution((False, "off", 1e-5, 1 / 3)), "false, off, 1e-05, 0.333333"),
        (FloatDistribution(1e-4, 0.1, log=True), "0.0001 to 0.1, log"),
        (FloatDistribution(0.0, 1.0, step=0.25), "0 to 1 in steps of 0.25"),
        (IntDistribution(1, 3), "1 to 3"),
        (IntDistribution(16, 64, step=8), "16 to 64 in steps of 8"),
        (IntDistribution(1, 64, log=True), "1 to 64, log"),
    ],
)
def test_a_range_is_displayed_with_its_bounds_steps_and_scale(
    range_: BaseDistribution, text: str
) -> None:
    assert range_text(range_) == text


def test_params_are_displayed_with_six_digits() -> None:
    params: dict[str, Value] = {
        "lr": 0.012345678901234567,
        "bias": True,
        "width": 1234567,
        "norm": "off",
    }
    assert params_text(params) == "lr=0.0123457 bias=true width=1234567 norm=off"


@dataclass(frozen=True, kw_only=True)
class Later:
    """`Choices` with two fields more: one with a default, and a branch with one."""

    width: Annotated[int, IntDistribution(16, 64, step=8)]
    dropout: Annotated[float, FloatDistribution(0.0, 0.5)] = 0.125
    schedule: Plain | Cosine = Cosine(warmup=2)


def test_a_default_is_the_value_of_what_is_missing() -> None:
    space = Space(Later)
    expected = {
        "width": 24, "dropout": 0.125, "schedule": "Cosine", "schedule.Cosine.warmup": 2,
    }  # fmt: skip
    assert space.of({"width": 24}) == Later(width=24)
    assert space.complete_in_range({"width": 24}) == expected
    with pytest.raises(UserError, match="no value for width"):
        space.complete_in_range({})
    with pytest.raises(UserError, match="width must be"):
        space.complete_in_range({"width": 8})
    narrow = Space(Later, {"dropout": FloatDistribution(0.25, 0.5)})
    with pytest.raises(UserError, match="dropout must be a number from 0"):
        narrow.complete_in_range({"width": 24})


def test_a_trial_of_other_ranges_fits_if_its_values_do() -> None:
    trial = create_trial(
        value=1.0,
        params={"width": 24, "dropout": 0.25},
        distributions={"width": IntDistribution(1, 100), "dropout": FloatDistribution(0, 1)},
    )
    ranges = Space(Later).ranges
    fitted = Space(Later).fitted(trial)
    assert fitted is not None
    assert fitted.params == Space(Later).complete_in_range(trial.params)
    assert fitted.distributions == {name: ranges[name] for name in fitted.params}
    assert (fitted.value, trial.params) == (1.0, {"width": 24, "dropout": 0.25})
    assert Space(Later, {"dropout": FloatDistribution(0.3, 0.5)}).fitted(trial) is None
