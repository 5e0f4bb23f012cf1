"""What every process that joins a study must agree on, as it is stored with the study."""

from collections.abc import Mapping
from types import FunctionType

Definition = Mapping[str, object]
"""JSON values by what they are of; see `search.study.Study.definition`."""


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
    settings = ", ".join(
        f"{name.lstrip('_')}={value!r}"
        for name, value in sorted(vars(part).items())
        if value is None or isinstance(value, bool | int | float | str)
    )
    return f"{type(part).__name__}({settings})"
