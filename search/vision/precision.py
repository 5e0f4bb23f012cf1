"""The numeric precision of a forward pass on each type of device."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass: bfloat16 on CUDA, where float32 is far slower."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def precision(device: torch.device) -> str:
    """Return the precision of `autocast` as text."""
    return "bfloat16 autocast" if device.type == "cuda" else "float32"
