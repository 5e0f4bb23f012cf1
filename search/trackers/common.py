"""What the trackers share: names, and the check for a library that is an extra."""

from importlib import import_module

from search.errors import UserError

VALUE = "search/value"
"""Name of a trial's value, as a metric that no training measures."""
STATE = "search/state"
REASON = "search/reason"
"""Why a trial was pruned or failed."""
KEY = "search/key"
"""Name of `search.study.callbacks.TrialInfo.key`."""


def check_library(name: str) -> None:
    """Import a tracker's library, which an extra of the same name installs.

    Raises:
        UserError: it is not installed.
    """
    try:
        import_module(name)
    except ImportError as error:
        raise UserError(
            f"callbacks: {name} cannot be imported; it needs the extra `{name}`: "
            f"pip install '.[{name}]'"
        ) from error
