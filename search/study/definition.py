"""The definition of a study: the stored settings on which all of its workers must agree."""

from collections.abc import Mapping
from functools import partial
from types import FunctionType

from optuna.distributions import json_to_distribution
from optuna.pruners import BasePruner

from search.study.space import range_text

Definition = Mapping[str, object]
"""JSON values by setting; see `search.study.study.Study.definition`."""
RANGE = "range of "
"""Beginning of the names of the settings that are distributions, as Optuna's JSON."""


def differences(stored: Definition, asked: Definition) -> list[str]:
    """Return one line for each setting in which two definitions differ."""
    return [
        f"{name} is {_shown(name, stored)} in the database and {_shown(name, asked)} here"
        for name in {**stored, **asked}
        if stored.get(name) != asked.get(name)
    ]


def settings(definition: Definition) -> Mapping[str, object]:
    """Return the settings for people: ranges as text, and only those that are set."""
    return {name: _readable(name, value) for name, value in definition.items() if value is not None}


def _shown(name: str, definition: Definition) -> str:
    return repr(_readable(name, definition.get(name)))


def _readable(name: str, value: object) -> object:
    if name.startswith(RANGE) and isinstance(value, str):
        return range_text(json_to_distribution(value))
    return value


def described(part: object) -> str:
    """Return the class and settings of a sampler factory or pruner, equal in every process."""
    if isinstance(part, type | FunctionType):
        return str(part.__qualname__)
    if isinstance(part, partial):
        positional = [_setting(value) for value in part.args]
        named = _settings(part.keywords)
        return f"{described(part.func)}({', '.join([*filter(None, positional), *named])})"
    return f"{type(part).__name__}({', '.join(_settings(vars(part)))})"


def _settings(values: Mapping[str, object]) -> list[str]:
    found = {name.lstrip("_"): _setting(value) for name, value in sorted(values.items())}
    return [f"{name}={value}" for name, value in found.items() if value is not None]


def _setting(value: object) -> str | None:
    """Return a value as text; None if its text may differ between processes."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return described(value) if isinstance(value, BasePruner) else None
