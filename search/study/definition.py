"""What every process that joins a study must agree on, as it is stored with the study."""

from collections.abc import Mapping
from functools import partial
from types import FunctionType

from optuna.pruners import BasePruner

Definition = Mapping[str, object]
"""JSON values by what they are of; see `search.study.study.Study.definition`."""


def differences(stored: Definition, asked: Definition) -> list[str]:
    """Return one line for each entry in which two definitions differ."""
    return [
        f"{name} is {stored.get(name)!r} in the database and {asked.get(name)!r} here"
        for name in {**stored, **asked}
        if stored.get(name) != asked.get(name)
    ]


def described(part: object) -> str:
    """Return class and settings of a sampler factory or pruner, alike in every process."""
    if isinstance(part, type | FunctionType):
        return str(part.__qualname__)
    if isinstance(part, partial):
        positional = [_setting(value) for value in part.args]
        named = _settings(part.keywords)
        return f"{described(part.func)}({', '.join([*filter(None, positional), *named])})"
    return f"{type(part).__name__}({', '.join(_settings(vars(part)))})"


def _settings(values: Mapping[str, object]) -> list[str]:
    told = {name.lstrip("_"): _setting(value) for name, value in sorted(values.items())}
    return [f"{name}={value}" for name, value in told.items() if value is not None]


def _setting(value: object) -> str | None:
    """Return a value that is alike in every process; None for another one."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return described(value) if isinstance(value, BasePruner) else None
