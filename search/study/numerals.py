"""Numbers as a user types them: ASCII digits, and nothing that Python alone would take for one.

`int` and `float` also read `1_000`, blanks around the digits, digits of other scripts, `nan`, and
`1e400` as infinity.
"""

import math
import re

_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole_number(text: str) -> int | None:
    """Return the whole number that `text` is, of at most 100 digits; None if it is none."""
    return int(text) if _WHOLE.fullmatch(text) else None


def decimal_number(text: str) -> float | None:
    """Return the finite number that `text` is; None if it is none, or too large for a float."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None
