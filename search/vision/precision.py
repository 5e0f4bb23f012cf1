"""The numeric precision of training: float32, or products in bfloat16 of float32 weights."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from search.errors import UserError
from search.vision.image_classification import Precision

NATIVE = ("amx_bf16", "avx512_bf16")
"""The flags of processors that multiply bfloat16 numbers themselves."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context for forward passes."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def choose(device: torch.device, asked: Precision | None) -> Precision:
    """Return the precision for a device: what is asked for, or by default bfloat16 on CUDA, where
    float32 is far slower, and float32 elsewhere.

    Raises:
        UserError: the device would emulate bfloat16.
    """
    if asked == "bfloat16" and not _is_native(device):
        raise UserError(
            f"--precision bfloat16: {_named(device)} has no such instructions and would emulate "
            "them, many times slower; give --precision float32, for a new study"
        )
    return asked or ("bfloat16" if device.type == "cuda" else "float32")


def _is_native(device: torch.device) -> bool:
    if device.type != "cpu":
        return device.type == "cuda"
    return not set(NATIVE).isdisjoint(_processor().get("flags", "").split())


def _named(device: torch.device) -> str:
    model = _processor().get("model name", "this processor") if device.type == "cpu" else ""
    return model or f"the device {device}"


def _processor() -> dict[str, str]:
    """Return what Linux says of the first processor; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
