"""What a forward pass computes in, on each kind of device."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass: bfloat16 where a float32 one would be far slower."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def precision(device: torch.device) -> str:
    """Return in words what `autocast` computes in."""
    return "bfloat16 autocast" if device.type == "cuda" else "float32"
