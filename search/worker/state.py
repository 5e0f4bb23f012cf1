"""The state of a training as bytes, from which nothing but plain values and tensors can be loaded.

A state with tensors is written by `torch.save` and read with `weights_only=True`. Any other is
written by `pickle` and read without its classes, so that PyTorch is not needed.
"""

import io
import pickle
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

_TORCH = b"PK"
"""`torch.save` writes a ZIP file."""


class UnreadableState(ValueError):
    """A state holds other objects than tensors, numbers, text, bytes and containers of them."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise UnreadableState(f"{module}.{name}")


def dump(state: Mapping[str, Any]) -> bytes:
    """Return the bytes of a state.

    Raises:
        UnreadableState: it holds something that cannot be written.
    """
    buffer = io.BytesIO()
    try:
        if _has_tensors(state):
            import torch

            torch.save(state, buffer)
        else:
            pickle.dump(state, buffer)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise UnreadableState(str(error)) from error
    return buffer.getvalue()


def load(content: bytes, device: str) -> Mapping[str, Any]:
    """Return the state, with its tensors on `device`; no code of it is run.

    Raises:
        UnreadableState: it holds other objects.
    """
    buffer = io.BytesIO(content)
    try:
        if content.startswith(_TORCH):
            import torch

            state = torch.load(buffer, map_location=device, weights_only=True)
        else:
            state = _Plain(buffer).load()
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # PyTorch advises to run the file's code
        raise UnreadableState(named[1] if named else str(error).split(". ")[0]) from error
    found: Mapping[str, Any] = state
    return found


def _has_tensors(value: object) -> bool:
    if "torch" not in sys.modules:
        return False
    import torch

    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_tensors, value))
    return isinstance(value, torch.Tensor)
