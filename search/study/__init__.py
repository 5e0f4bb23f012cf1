"""The names that a study file imports: `from search.study import Choices, Study`.

They are imported lazily, because the image modules use this package without Optuna.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.study.choices import RANGES, Choices
    from search.study.pruners import SuccessiveHalving
    from search.study.samplers import TPE
    from search.study.study import Study
    from search.study.study_file import load

__all__ = ["RANGES", "TPE", "Choices", "Study", "SuccessiveHalving", "load"]

_HOMES = {
    "RANGES": "choices",
    "TPE": "samplers",
    "Choices": "choices",
    "Study": "study",
    "SuccessiveHalving": "pruners",
    "load": "study_file",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
