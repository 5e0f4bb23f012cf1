"""The hyperparameters of one trial, as a frozen value.

This module defines the fields, their valid values, and the ranges that a study samples.
`search.vision.network` and `search.vision.training` implement the values. The choices come from a
course report (CS535, Winter 2019, assignment 3).
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
    """Hyperparameters of a trial: network and optimizer.

    Raises:
        UserError: a field has an invalid value.
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
    """L2 penalty as the optimizer defines it, at least 0."""
    schedule: Schedule
    """Learning rate over the epochs: constant, or a half cosine toward 0."""

    def __post_init__(self) -> None:
        options: dict[str, tuple[object, ...]] = {
            "bn1": get_args(Norm),
            "bn2": get_args(Norm),
            "optimizer": get_args(OptimizerName),
            "schedule": get_args(Schedule),
        }
        for name, known in options.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} must be one of {_listed(known)}, not {getattr(self, name)!r}"
                )
        for name in ("extra_fc", "conv_bias", "fc_bias"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name, rule in (("lr", "above 0"), ("weight_decay", "of at least 0")):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf or (name == "lr" and value == 0):
                raise UserError(f"{name} must be a finite number {rule}, not {value!r}")

    @classmethod
    def suggest(cls, trial: BaseTrial, ranges: Ranges) -> Self:
        """Suggest every field of `trial`, in a fixed order.

        No field is conditional on another: multivariate TPE would exclude a conditional parameter
        from its joint model and sample it independently.
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
        """Return these choices as Optuna parameters."""
        return asdict(self)

    def __str__(self) -> str:
        return params_text(self.params())


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
        # Categorical, since three of the report's networks use 0, which a log scale cannot hold.
        "weight_decay": CategoricalDistribution((0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
        "schedule": CategoricalDistribution(("constant", "cosine")),
    }
)
"""The default ranges of a study."""


def check_ranges(ranges: Ranges) -> None:
    """Check that the ranges cover every field and hold valid values only.

    Raises:
        UserError: a field has no range, is unknown, or can take an invalid value.
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
                    f"ranges: {name} must be a CategoricalDistribution or a FloatDistribution, "
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
    """Check fixed values, which Optuna would only warn about, ignore or replace silently.

    `complete` requires a value for every field, as for a variant; otherwise, the sampler draws the
    missing ones.

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
                        inside = abs(steps - round(steps)) < 1e-8  # Optuna's tolerance
        if not inside:
            raise UserError(f"{name} must be {rule}, not {_exact(value)}")
    if complete and (missing := [name for name in FIELDS if name not in params]):
        raise UserError(f"no value for {_listed(missing)}; a variant needs every parameter")


def range_text(distribution: BaseDistribution) -> str:
    """Return a range as text for display: its values, or its bounds."""
    match distribution:
        case CategoricalDistribution(choices=options):
            return _listed(options, _text)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            steps = "" if step is None else f" in steps of {step:g}"
            return f"{low:g} to {high:g}{steps}{', log' if log else ''}"
    return str(distribution)


def parse_params(text: str, ranges: Ranges) -> dict[str, Value]:
    """Parse fixed values such as `"optimizer=SGD lr=0.02"`, and return them in field order.

    Raises:
        UserError: `text` is malformed, or a value is outside its range.
    """
    params: dict[str, Value] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"parameters must be NAME=VALUE, separated by spaces, not {word!r}")
        if name in params:
            raise UserError(f"{name} appears twice in {text!r}")
        params[name] = _parsed(value)
    if not params:
        raise UserError(f"no parameter in {text!r}; give for example 'optimizer=SGD lr=0.02'")
    check_params(params, ranges)
    return {name: params[name] for name in FIELDS if name in params}


def params_text(params: Mapping[str, Value]) -> str:
    """Return `params` as text for display, numbers with six significant digits.

    The fields come first, in their order, then unknown parameters, which other programs may add.
    """
    names = [*(name for name in FIELDS if name in params), *sorted(params.keys() - set(FIELDS))]
    return " ".join(f"{name}={_text(params[name])}" for name in names)


def written(params: Mapping[str, Value]) -> str:
    """Return `params` in the format of `parse_params`: `"optimizer=SGD lr=0.02"`."""
    return " ".join(f"{name}={_exact(value)}" for name, value in params.items())


def _parsed(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = decimal_number(text)
    return text if number is None else number


def _exact(value: object) -> str:
    """Return a value as text for an error message; a number has all of its digits."""
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
