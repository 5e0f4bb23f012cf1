"""Parse numbers that a user typed, with ASCII digits only.

`int` and `float` also accept `1_000`, surrounding whitespace, digits of other scripts, `nan`, and
`1e400` as infinity.
"""

import math
import re

_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole_number(text: str) -> int | None:
    """Parse a whole number of at most 100 digits; return None if `text` is not one."""
    return int(text) if _WHOLE.fullmatch(text) else None


def decimal_number(text: str) -> float | None:
    """Parse a finite number; return None if `text` is not one, or exceeds a float's range."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None
