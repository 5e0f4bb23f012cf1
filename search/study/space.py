"""The choices of a study: a frozen dataclass whose annotations are the ranges to sample.

    @dataclass(frozen=True, kw_only=True)
    class SGD:
        lr: Annotated[float, FloatDistribution(1e-3, 1e-1, log=True)]
        nesterov: bool

    @dataclass(frozen=True, kw_only=True)
    class Choices:
        width: Annotated[int, IntDistribution(16, 64, step=8)]
        norm: Literal["batch", "group"]
        optimizer: SGD | AdamW

A field that is a union of such dataclasses is a branch: a trial takes one of the classes, and only
the fields of that class are sampled and stored, as `optimizer.SGD.lr`. The default of a field is
the value of the trials that were begun before the field was added.
"""

import copy
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from enum import Enum, auto
from typing import Annotated, Any, Generic, Literal, Union, get_args, get_origin, get_type_hints

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FrozenTrial
from typing_extensions import TypeVar

from search.errors import UserError
from search.study.numerals import decimal_number

C = TypeVar("C", default=Any)
Value = str | bool | int | float | None
Params = Mapping[str, Value]
"""Values by the parameter's name, as Optuna stores them."""
Ranges = Mapping[str, BaseDistribution]
"""Distributions by the parameter's name."""

KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
}
"""Types of fields, and their values in words."""
NUMBERS = (int, float)
"""Types whose values may have any range."""


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    """A field that is sampled."""

    name: str
    type: type | None
    """bool, int, float or str; None for the values of a `Literal`."""
    distribution: BaseDistribution
    has_default: bool


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """A field that holds one of several dataclasses."""

    parameter: _Parameter
    """The name of the class."""
    classes: Mapping[str, "_Record"]


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A dataclass of choices."""

    type: type
    fields: Mapping[str, "_Parameter | _Branch"]
    """By the field's name."""


class Space(Generic[C]):
    """The parameters of a study, and how they are sampled, checked, parsed and displayed.

    Raises:
        UserError: a field has no range or one that does not fit its type, or `ranges` has an
            unknown parameter or values that the field cannot take.
    """

    def __init__(self, choices: type[C], ranges: Ranges | None = None) -> None:
        """`ranges` replace those of the annotations, by the parameter's name."""
        self._given = dict(ranges or {})
        self._root = self._record(choices, "")
        self._known = {parameter.name: parameter for parameter in _walk(self._root)}
        if unknown := sorted(self._given.keys() - self._known.keys()):
            raise UserError(f"ranges: {unknown[0]!r} is unknown; known: {listed(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters, including those of all branches, in the fields' order."""
        return tuple(self._known)

    @property
    def ranges(self) -> dict[str, BaseDistribution]:
        """The distribution of each parameter."""
        return {name: parameter.distribution for name, parameter in self._known.items()}

    def classes(self, name: str) -> frozenset[str] | None:
        """Return the names of the classes of the branch `name`; None if it is no branch."""
        return _classes(self._root, name)

    def has_default(self, name: str) -> bool:
        """Return whether the field of the parameter `name` has a default."""
        return self._known[name].has_default

    @property
    def has_branches(self) -> bool:
        return any(isinstance(field, _Branch) for field in self._root.fields.values())

    def suggest(self, trial: BaseTrial, given: Params | None = None) -> C:
        """Suggest the parameters of `trial` in a fixed order; of a branch, only those of the class
        that the trial takes.

        `given` are values that a fixed trial was enqueued with, which may be outside the ranges.
        """
        values = given or {}

        def suggested(parameter: _Parameter) -> Value:
            if parameter.name in values:
                parameter = _containing(parameter, values[parameter.name])
            return _suggested(trial, parameter)

        made: C = _visit(self._root, suggested)
        return made

    def of(self, params: Params) -> C:
        """Return the choices with these parameters; unknown ones are ignored, and a missing one has
        its field's default.

        Raises:
            UserError: a parameter without a default is missing, or the choices have no such class.
        """

        def value(parameter: _Parameter) -> Value | _Default:
            if parameter.name in params:
                return params[parameter.name]
            if not parameter.has_default:
                raise UserError(f"no value for {parameter.name}")
            return _Default.DEFAULT

        try:
            made: C = _visit(self._root, value)
        except KeyError as error:
            raise UserError(f"the choices have no class {error}") from None
        return made

    def complete(self, params: Params) -> dict[str, Value]:
        """Return `params` with the defaults of what is missing, in any ranges.

        Raises:
            UserError: as `of` does.
        """
        return self.params(self.of(params))

    def complete_in_range(self, params: Params) -> dict[str, Value]:
        """Return `params` with the defaults of what is missing.

        Raises:
            UserError: a name is unknown, a value is outside its range, or one is missing that has
                no default.
        """
        self.check(params)
        found = self.complete(params)
        self.check(found)
        return found

    def fitted(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return a trial of other ranges as one of these; None if it does not fit them."""
        found = copy.copy(trial)
        try:
            found.params = self.complete_in_range(trial.params)
        except UserError:
            return None
        found.distributions = {name: self._known[name].distribution for name in found.params}
        return found

    def params(self, choices: C) -> dict[str, Value]:
        """Return the parameters of `choices`."""
        return dict(_params(self._root, choices))

    def check(self, params: Params, *, complete: bool = False) -> None:
        """Check fixed values, which Optuna would only warn about, ignore or replace silently.

        `complete` requires a value for every parameter, as for a variant; otherwise, the sampler
        draws the missing ones.

        Raises:
            UserError: a name is unknown, missing, or of a class that the trial does not take, or a
                value is outside its range.
        """
        for name, value in params.items():
            if name not in self._known:
                raise UserError(f"unknown parameter {name!r}; known: {listed(self.names)}")
            if rule := _broken_rule(self._known[name], value):
                raise UserError(f"{name} must be {rule}, not {exact(value)}")
        taken = [parameter.name for parameter in _taken(self._root, params)]
        if astray := [name for name in params if name not in taken]:
            branch, class_, _ = astray[0].rsplit(".", 2)
            raise UserError(f"{astray[0]} needs {branch}={class_}")
        if complete and (missing := [name for name in taken if name not in params]):
            raise UserError(f"no value for {listed(missing)}; a variant needs every parameter")

    def is_complete(self, params: Params) -> bool:
        """Return whether every parameter that these need has a value."""
        return all(parameter.name in params for parameter in _taken(self._root, params))

    def parse(self, text: str) -> dict[str, Value]:
        """Parse fixed values such as `"optimizer=SGD lr=0.02"`, and return them in field order.

        Raises:
            UserError: `text` is malformed, or does not pass `check`.
        """
        params: dict[str, Value] = {}
        for word in text.split():
            name, equals, value = word.partition("=")
            if not equals or not value:
                raise UserError(f"parameters must be NAME=VALUE, separated by spaces, not {word!r}")
            if name in params:
                raise UserError(f"{name} appears twice in {text!r}")
            params[name] = _parsed(value, self._known.get(name))
        if not params:
            example = written({name: _first(self.ranges[name]) for name in self.names[:1]})
            raise UserError(f"no parameter in {text!r}; give for example {example!r}")
        self.check(params)
        return {name: params[name] for name in self.names if name in params}

    def _record(self, type_: type, prefix: str) -> _Record:
        frozen = getattr(getattr(type_, "__dataclass_params__", None), "frozen", False)
        if not frozen:
            raise UserError(
                f"choices: {getattr(type_, '__name__', repr(type_))} must be a frozen dataclass; "
                "put @dataclass(frozen=True, kw_only=True) above it"
            )
        try:
            hints = get_type_hints(type_, include_extras=True)
        except (NameError, TypeError) as error:
            raise UserError(f"choices: the annotations of {type_.__name__}: {error}") from error
        own = fields(type_)
        if not own and not prefix:
            raise UserError(f"choices: {type_.__name__} has no fields")
        return _Record(
            type=type_,
            fields={
                field.name: self._field(
                    f"{prefix}{field.name}", hints[field.name], _has_default(field)
                )
                for field in own
            },
        )

    def _field(self, name: str, hint: Any, has_default: bool) -> _Parameter | _Branch:
        options = _options(name, hint)
        if not options:
            return self._parameter(name, *_annotated(name, hint), has_default)
        names = [option.__name__ for option in options]
        if twice := [own for own in names if names.count(own) > 1]:
            raise UserError(
                f"choices: {name} is a union of two classes named {twice[0]}; rename one of them"
            )
        return _Branch(
            parameter=self._parameter(name, None, CategoricalDistribution(names), has_default),
            classes={
                option.__name__: self._record(option, f"{name}.{option.__name__}.")
                for option in options
            },
        )

    def _parameter(
        self, name: str, type_: type | None, range_: BaseDistribution, has_default: bool
    ) -> _Parameter:
        own = _Parameter(name=name, type=type_, distribution=range_, has_default=has_default)
        _check_range(own, own, where="choices")
        found = replace(own, distribution=self._given.get(name, range_))
        _check_range(found, own, where="ranges")
        return found


def _options(name: str, hint: Any) -> tuple[type, ...]:
    """Return the dataclasses of a branch; none if the field is not a branch.

    Raises:
        UserError: it is a union of other types.
    """
    is_union = get_origin(hint) in (Union, types.UnionType)
    options = get_args(hint) if is_union else (hint,)
    if all(isinstance(one, type) and is_dataclass(one) for one in options):
        return options
    if is_union:
        raise UserError(
            f"choices: {name} is a union of {listed([getattr(o, '__name__', o) for o in options])};"
            " only a union of frozen dataclasses is a branch; give Literal[...] for a few values"
        )
    return ()


def _annotated(name: str, hint: Any) -> tuple[type | None, BaseDistribution]:
    """Return the type of a field's values, and the range in its annotation.

    Raises:
        UserError: the annotation has no range, or the values of a `Literal` have several types.
    """
    if hint is bool:
        return bool, CategoricalDistribution((False, True))
    if get_origin(hint) is Literal:
        values = get_args(hint)
        if len({type(value) for value in values}) > 1:
            raise UserError(
                f"choices: {name} has values of several types, {listed(values)}; give one type"
            )
        return None, CategoricalDistribution(values)
    if get_origin(hint) is Annotated:
        type_, *notes = get_args(hint)
        found = [note for note in notes if isinstance(note, BaseDistribution)]
        if len(found) == 1 and type_ in KINDS:
            return type_, found[0]
    raise UserError(
        f"choices: {name} has no range; annotate it as bool, Literal[...], "
        "Annotated[float, FloatDistribution(...)], Annotated[int, IntDistribution(...)] or a union "
        "of frozen dataclasses"
    )


def _check_range(parameter: _Parameter, own: _Parameter, *, where: str) -> None:
    """Check that the field can take the values of its distribution.

    A number may have any range of its type; other values must be among those of the annotation.

    Raises:
        UserError: it cannot; the message begins with `where`.
    """
    name, type_ = parameter.name, parameter.type
    values: Sequence[Value] = ()
    match parameter.distribution:
        case CategoricalDistribution(choices=options):
            values = options
        case FloatDistribution(low=low, high=high) if type_ is float:
            values = (low, high)
        case IntDistribution() if type_ is int:
            pass
        case other:
            numeric: dict[type | None, str] = {
                int: " or an IntDistribution",
                float: " or a FloatDistribution",
            }
            kind = f"a CategoricalDistribution{numeric.get(type_, '')}"
            raise UserError(f"{where}: {name} must be {kind}, not {other!r}")
    for value in values:
        rule = None if type_ is None or _is_of(value, type_) else KINDS[type_]
        if rule is None and type_ not in NUMBERS:
            rule = _broken_rule(own, value)
        if rule is not None:
            raise UserError(f"{where}: {name} must be {rule}, not {exact(value)}")


def _is_of(value: object, type_: type | None) -> bool:
    if isinstance(value, bool):
        return type_ is bool
    if type_ is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return type_ is not None and isinstance(value, type_)


def _broken_rule(parameter: _Parameter, value: object) -> str | None:
    """Return the rule that the value breaks, such as `a number from 0 to 1`; None if it is in the
    range."""
    match parameter.distribution:
        case CategoricalDistribution(choices=options):
            # True equals 1 in Python.
            is_in = any(
                value == o and isinstance(value, bool) == isinstance(o, bool) for o in options
            )
            return None if is_in else f"one of {listed(options)}"
        case FloatDistribution(low=low, high=high, step=step):
            rule, is_number = f"a number from {exact(low)} to {exact(high)}", _is_of(value, float)
        case IntDistribution(low=low, high=high, step=step):
            rule = f"a whole number from {low} to {high}"
            is_number, step = _is_of(value, int), step if step > 1 else None
        case other:
            return f"a value of {other!r}"
    if step is not None:
        rule = f"{rule} in steps of {exact(step)}"
    if not is_number or not low <= value <= high:  # type: ignore[operator]  # a number
        return rule
    if step is not None:
        steps = (value - low) / step  # type: ignore[operator]
        if abs(steps - round(steps)) >= 1e-8:  # Optuna's tolerance
            return rule
    return None


def _walk(record: _Record) -> Iterator[_Parameter]:
    """Yield all parameters in the fields' order."""
    for field in record.fields.values():
        if isinstance(field, _Parameter):
            yield field
            continue
        yield field.parameter
        for option in field.classes.values():
            yield from _walk(option)


def _classes(record: _Record, name: str) -> frozenset[str] | None:
    for field in record.fields.values():
        if isinstance(field, _Branch):
            if field.parameter.name == name:
                return frozenset(field.classes)
            for option in field.classes.values():
                if (found := _classes(option, name)) is not None:
                    return found
    return None


def _containing(parameter: _Parameter, value: Any) -> _Parameter:
    """Return the parameter with a range that contains `value`."""
    if _broken_rule(parameter, value) is None:
        return parameter
    match parameter.distribution:
        case CategoricalDistribution(choices=options):
            range_: BaseDistribution = CategoricalDistribution((*options, value))
        case FloatDistribution(low=low, high=high, log=log):
            range_ = FloatDistribution(min(low, value), max(high, value), log=log and value > 0)
        case IntDistribution(low=low, high=high, log=log):
            range_ = IntDistribution(min(low, value), max(high, value), log=log and value > 0)
        case other:
            range_ = other
    return replace(parameter, distribution=range_)


def _taken(record: _Record, params: Params) -> Iterator[_Parameter]:
    """Yield the parameters of the classes that `params` take, whether they are given or not."""
    for field in record.fields.values():
        if isinstance(field, _Parameter):
            yield field
            continue
        yield field.parameter
        if (chosen := params.get(field.parameter.name)) in field.classes:
            yield from _taken(field.classes[str(chosen)], params)


class _Default(Enum):
    """Stands for the default of a field, which its dataclass knows."""

    DEFAULT = auto()


def _has_default(field: "Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _visit(record: _Record, value: Callable[[_Parameter], Value | _Default]) -> Any:
    """Return the dataclass with what `value` returns for each parameter that it needs."""
    made: dict[str, Any] = {}
    for name, field in record.fields.items():
        parameter = field if isinstance(field, _Parameter) else field.parameter
        found = value(parameter)
        if found is _Default.DEFAULT:
            continue
        made[name] = found
        if isinstance(field, _Branch):
            made[name] = _visit(field.classes[str(found)], value)
    return record.type(**made)


def _params(record: _Record, choices: Any) -> Iterator[tuple[str, Value]]:
    for name, field in record.fields.items():
        value = getattr(choices, name)
        if isinstance(field, _Parameter):
            yield field.name, value
        else:
            chosen = type(value).__name__
            yield field.parameter.name, chosen
            if chosen in field.classes:  # otherwise `check` reports it
                yield from _params(field.classes[chosen], value)


def _suggested(trial: BaseTrial, parameter: _Parameter) -> Value:
    name = parameter.name
    match parameter.distribution:
        case CategoricalDistribution(choices=options):
            return trial.suggest_categorical(name, options)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, step=step, log=log)
    raise AssertionError(f"{parameter.distribution!r} passed _check_range")


def _first(distribution: BaseDistribution) -> Value:
    match distribution:
        case CategoricalDistribution(choices=(first, *_)):
            return first
        case FloatDistribution(low=low) | IntDistribution(low=low):
            return low
    raise AssertionError(f"{distribution!r} passed _check_range")


def range_text(distribution: BaseDistribution) -> str:
    """Return a range as text for display: its values, or its bounds."""
    match distribution:
        case CategoricalDistribution(choices=options):
            return listed(options, rounded)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            steps = "" if step is None else f" in steps of {step:g}"
            return f"{low:g} to {high:g}{steps}{', log' if log else ''}"
        case IntDistribution(low=low, high=high, log=log, step=step):
            steps = "" if step == 1 else f" in steps of {step}"
            return f"{low} to {high}{steps}{', log' if log else ''}"
    return str(distribution)


def params_text(params: Params) -> str:
    """Return `params` as text for display, numbers with six significant digits."""
    return " ".join(f"{name}={rounded(value)}" for name, value in params.items())


def written(params: Params) -> str:
    """Return `params` in the format of `Space.parse`: `"optimizer=SGD lr=0.02"`."""
    return " ".join(f"{name}={exact(value)}" for name, value in params.items())


def _parsed(text: str, parameter: _Parameter | None) -> Value:
    """Return the value that the user typed, in the parameter's type where it can be."""
    if parameter is not None and isinstance(parameter.distribution, CategoricalDistribution):
        for option in parameter.distribution.choices:
            if text in (exact(option), rounded(option)):
                return option
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = decimal_number(text)
    if number is None:
        return text
    if parameter is not None and parameter.type is int and number == int(number):
        return int(number)
    return number


def exact(value: object) -> str:
    """Return a value as text; a number has all of its digits."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else rounded(value)


def rounded(value: object) -> str:
    """Return a value as text; a number has six significant digits."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
    return str(value)


def listed(values: Sequence[object], text: Callable[[object], str] = exact) -> str:
    return ", ".join(map(text, values))
