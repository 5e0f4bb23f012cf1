"""The definition of a study: the stored settings on which all of its workers must agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from types import FunctionType

from optuna.distributions import json_to_distribution
from optuna.pruners import BasePruner

from search.study.space import range_text

Definition = Mapping[str, object]
"""JSON values by setting; see `search.study.study.Study.definition`."""
RANGE = "range of "
"""Beginning of the names of the settings that are distributions, as Optuna's JSON."""


@dataclass(frozen=True, kw_only=True)
class Redefinition:
    """A change of what decides which trials are tried and stopped, and not how they end."""

    trial: int
    """The number of the first trial that was begun after it."""
    before: Definition
    """The settings that it changed, as they were; None for the range of a new parameter."""

    def to(self, after: Definition) -> str:
        """Return the change as text; `after` is the definition that it made."""
        now, before = settings(after), settings(self.before)
        changes = [
            f"{name} {now[name]} ({f'before: {before[name]}' if name in before else 'new'})"
            for name in self.before
        ]
        return f"From trial {self.trial} on: {'; '.join(changes)}."


def is_redefinable(name: str) -> bool:
    """Return whether a setting can change while trials of before stay what they are."""
    return name in ("sampler", "pruner") or name.startswith(RANGE)


def history(now: Definition, redefinitions: Sequence[Redefinition]) -> list[str]:
    """Return a line for each redefinition, the latest last; `now` is the present definition."""
    after, lines = dict(now), []
    for one in reversed(redefinitions):
        lines.append(one.to(after))
        after |= one.before
    return lines[::-1]


def changed(stored: Definition, asked: Definition) -> list[str]:
    """Return the names of the settings in which two definitions differ."""
    return [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]


def differences(stored: Definition, asked: Definition) -> list[str]:
    """Return one line for each setting in which two definitions differ."""
    return [
        f"{name} is new"
        if name.startswith(RANGE) and stored.get(name) is None
        else f"{name} is {_shown(name, stored)} in the database and {_shown(name, asked)} here"
        for name in changed(stored, asked)
    ]


def settings(definition: Definition) -> Mapping[str, object]:
    """Return the settings for people: ranges as text, and only those that are set."""
    return {name: _readable(name, value) for name, value in definition.items() if value is not None}


def _shown(name: str, definition: Definition) -> str:
    value = _readable(name, definition.get(name))
    return "not set" if value is None else repr(value)


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
    values = vars(part)
    if is_dataclass(part):  # a setting that earlier versions lacked is None by default
        values = {name: value for name, value in values.items() if value is not None}
    return f"{type(part).__name__}({', '.join(_settings(values))})"


def _settings(values: Mapping[str, object]) -> list[str]:
    found = {name.lstrip("_"): _setting(value) for name, value in sorted(values.items())}
    return [f"{name}={value}" for name, value in found.items() if value is not None]


def _setting(value: object) -> str | None:
    """Return a value as text; None if its text may differ between processes."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return described(value) if isinstance(value, BasePruner) else None
