"""One candidate network and how it is trained, as a frozen value.

This module decides which fields a candidate has, which values they can take at all, and which of
those a study samples (its ranges). What the values do is for `search.vision.network` and
`search.vision.training`. The choices are those of a course report (CS535, Winter 2019,
assignment 3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Literal, Self, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial

from search.errors import UserError
from search.study.numerals import decimal_number

Norm = Literal["off", "plain", "affine"]
OptimizerName = Literal["SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Adamax"]
Schedule = Literal["constant", "cosine"]
Value = str | bool | int | float | None
Ranges = Mapping[str, BaseDistribution]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Everything that distinguishes one trial of a study from another.

    Raises:
        UserError: a field has a value that no network or optimizer can be built from.
    """

    bn1: Norm
    """Batch normalization after fc1's ReLU; `plain` has no learnable scale and shift."""
    bn2: Norm
    """Batch normalization just before fc2."""
    extra_fc: bool
    """One more Linear(512, 512) and ReLU between fc1 and fc2."""
    conv_bias: bool
    """Bias terms in the four convolutions."""
    fc_bias: bool
    """Bias terms in the fully connected layers."""
    optimizer: OptimizerName
    """Class of `torch.optim`; SGD has momentum 0.9."""
    lr: float
    """Learning rate of the first epoch, above 0."""
    weight_decay: float
    """L2 penalty as the optimizer defines it, 0 or more."""
    schedule: Schedule
    """Learning rate over the epochs: constant, or a half cosine down towards 0."""

    def __post_init__(self) -> None:
        options: dict[str, tuple[object, ...]] = {
            "bn1": get_args(Norm),
            "bn2": get_args(Norm),
            "optimizer": get_args(OptimizerName),
            "schedule": get_args(Schedule),
        }
        for name, known in options.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} is one of {_listed(known)}, not {getattr(self, name)!r}")
        for name in ("extra_fc", "conv_bias", "fc_bias"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is true or false, not {getattr(self, name)!r}")
        for name, rule in (("lr", "above 0"), ("weight_decay", "of 0 or more")):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf or (name == "lr" and value == 0):
                raise UserError(f"{name} is a finite number {rule}, not {value!r}")

    @classmethod
    def suggest(cls, trial: BaseTrial, ranges: Ranges) -> Self:
        """Return the choices of `trial`, asking it for every field in a fixed order.

        All fields are asked for, whatever the others are: a conditional parameter would fall out
        of multivariate TPE's joint model and be sampled alone.
        """
        values: dict[str, Value] = {}
        for name in FIELDS:
            match ranges[name]:
                case CategoricalDistribution(choices=options):
                    values[name] = trial.suggest_categorical(name, options)
                case FloatDistribution(low=low, high=high, log=log, step=step):
                    values[name] = trial.suggest_float(name, low, high, step=step, log=log)
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks them

    def params(self) -> dict[str, Value]:
        """Return the Optuna parameters that stand for these choices."""
        return asdict(self)

    def __str__(self) -> str:
        return in_words(self.params())


FIELDS = tuple(field.name for field in fields(Choices))

RANGES: Ranges = MappingProxyType(
    {
        "bn1": CategoricalDistribution(("off", "plain", "affine")),
        "bn2": CategoricalDistribution(("off", "plain", "affine")),
        "extra_fc": CategoricalDistribution((False, True)),
        "conv_bias": CategoricalDistribution((False, True)),
        "fc_bias": CategoricalDistribution((False, True)),
        "optimizer": CategoricalDistribution(get_args(OptimizerName)),
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
        # Zero has no place on a log scale, and three of the report's networks use it.
        "weight_decay": CategoricalDistribution((0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
        "schedule": CategoricalDistribution(("constant", "cosine")),
    }
)
"""The ranges that a study samples where it names no others."""


def check_ranges(ranges: Ranges) -> None:
    """Refuse ranges that do not cover every field, or that hold a value no field can take.

    Raises:
        UserError: naming the field, and the value where it is one.
    """
    for name in sorted(ranges.keys() ^ set(FIELDS)):
        fault = "has no range" if name in FIELDS else f"is unknown; known: {_listed(FIELDS)}"
        raise UserError(f"ranges: {name!r} {fault}")
    sample: dict[str, Value] = {}
    for name in FIELDS:
        match ranges[name]:
            case CategoricalDistribution(choices=options):
                sample[name] = options[0]
            case FloatDistribution(low=low):
                sample[name] = low
            case other:
                raise UserError(
                    f"ranges: {name} takes a CategoricalDistribution or a FloatDistribution, "
                    f"not {other!r}"
                )
    for name in FIELDS:
        match ranges[name]:
            case CategoricalDistribution(choices=options):
                ends: tuple[Value, ...] = options
            case FloatDistribution(low=low, high=high):
                ends = (low, high)
        for value in ends:
            Choices(**sample | {name: value})  # type: ignore[arg-type]


def check_params(params: Mapping[str, Value], ranges: Ranges, *, complete: bool = False) -> None:
    """Refuse fixed values that Optuna would only warn about, ignore or sample silently.

    `complete` asks for a value for every field, as a variant needs; without it, the fields that
    `params` does not name are left to the sampler.

    Raises:
        UserError: a name is unknown or missing, or a value is outside its range.
    """
    for name, value in params.items():
        if name not in ranges:
            raise UserError(f"unknown parameter {name!r}; known: {_listed(FIELDS)}")
        match ranges[name]:
            case CategoricalDistribution(choices=options):
                inside = any(
                    value == o and isinstance(value, bool) == isinstance(o, bool) for o in options
                )
                rule = f"one of {_listed(options)}"
            case FloatDistribution(low=low, high=high, step=step):
                number = isinstance(value, int | float) and not isinstance(value, bool)
                inside = number and low <= value <= high  # type: ignore[operator]  # a number
                rule = f"a number from {_exact(low)} to {_exact(high)}"
                if step is not None:
                    rule = f"{rule} in steps of {_exact(step)}"
                    if inside:
                        steps = (value - low) / step  # type: ignore[operator]
                        inside = abs(steps - round(steps)) < 1e-8  # as Optuna has it
        if not inside:
            raise UserError(f"{name} is {rule}, not {_exact(value)}")
    if complete and (missing := [name for name in FIELDS if name not in params]):
        raise UserError(f"no value for {_listed(missing)}; a variant names every parameter")


def spelled(distribution: BaseDistribution) -> str:
    """Return a range for a reader: its values, or its ends."""
    match distribution:
        case CategoricalDistribution(choices=options):
            return _listed(options, _text)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            steps = "" if step is None else f" in steps of {step:g}"
            return f"{low:g} to {high:g}{steps}{', log' if log else ''}"
    return str(distribution)


def parse_params(text: str, ranges: Ranges) -> dict[str, Value]:
    """Return the fixed values in `text`, such as `"optimizer=SGD lr=0.02"`, in field order.

    Raises:
        UserError: `text` is not of that form, or holds a value outside the ranges.
    """
    params: dict[str, Value] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"parameters are written NAME=VALUE with spaces between, not {word!r}")
        if name in params:
            raise UserError(f"{name} is given twice in {text!r}")
        params[name] = _parsed(value)
    if not params:
        raise UserError(f"no parameter in {text!r}; write for example 'optimizer=SGD lr=0.02'")
    check_params(params, ranges)
    return {name: params[name] for name in FIELDS if name in params}


def in_words(params: Mapping[str, Value]) -> str:
    """Return `params` for a reader, numbers at six digits.

    In the order of the fields; those that are none, which only others give a trial, come last.
    """
    names = [*(name for name in FIELDS if name in params), *sorted(params.keys() - set(FIELDS))]
    return " ".join(f"{name}={_text(params[name])}" for name in names)


def written(params: Mapping[str, Value]) -> str:
    """Return `params` as `parse_params` takes them: `"optimizer=SGD lr=0.02"`."""
    return " ".join(f"{name}={_exact(value)}" for name, value in params.items())


def _parsed(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = decimal_number(text)
    return text if number is None else number


def _exact(value: object) -> str:
    """Return a value for an error: a number with all of its digits."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else _text(value)


def _text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
    return str(value)


def _listed(values: Sequence[object], text: Callable[[object], str] = _exact) -> str:
    return ", ".join(map(text, values))
