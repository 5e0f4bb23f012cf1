"""The names that a study file imports, such as `from search.study import Study`.

They are imported lazily, because the image modules use this package without Optuna.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.study.callbacks import Callback, TrialInfo, TrialResult
    from search.study.confirmation import Confirmation
    from search.study.metrics import Epoch, Metrics
    from search.study.pruners import Promotion, SuccessiveHalving
    from search.study.samplers import TPE
    from search.study.study import Study
    from search.study.study_file import load
    from search.study.training import Run, Trainer, Training

__all__ = [
    "TPE", "Callback", "Confirmation", "Epoch", "Metrics", "Promotion", "Run", "Study",
    "SuccessiveHalving", "Trainer", "Training", "TrialInfo", "TrialResult", "load",
]  # fmt: skip

_HOMES = {
    "TPE": "samplers",
    "Callback": "callbacks",
    "Confirmation": "confirmation",
    "Epoch": "metrics",
    "Metrics": "metrics",
    "Promotion": "pruners",
    "Run": "training",
    "Study": "study",
    "SuccessiveHalving": "pruners",
    "Trainer": "training",
    "Training": "training",
    "TrialInfo": "callbacks",
    "TrialResult": "callbacks",
    "load": "study_file",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
