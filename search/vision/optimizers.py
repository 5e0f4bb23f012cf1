"""The optimizers of `torch.optim` by name, in the fastest implementation for the device."""

import inspect
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search.errors import UserError
from search.vision import blocked_optimizers

FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
"""Optimizers with a fused implementation for CPU and CUDA; most others have `foreach`."""
BLOCKED = {"Adamax": blocked_optimizers.Adamax, "RMSprop": blocked_optimizers.RMSprop}
"""Optimizers that are fastest in blocks on a CPU."""
MOMENTUM = 0.9
"""Of SGD, if the choices do not say."""


def by_name(choices: Any, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that the choices name in their field `optimizer`.

    It is either the name of a class of `torch.optim`, with the fields `lr` and, optionally,
    `weight_decay` beside it; or a branch, whose class has the name and whose fields are the
    arguments.

    Raises:
        UserError: the choices lack such a field, or PyTorch has no such optimizer.
    """
    given = getattr(choices, "optimizer", None)
    if isinstance(given, str):
        if not hasattr(choices, "lr"):
            raise UserError(
                f"{type(choices).__name__} names an optimizer, but has no field lr beside it; add "
                "one, or give ImageClassification(optimizer=...)"
            )
        named, beside = given, ("lr", "weight_decay")
        options = {name: getattr(choices, name) for name in beside if hasattr(choices, name)}
    elif is_dataclass(given) and not isinstance(given, type):
        named, options = type(given).__name__, asdict(given)
    else:
        raise UserError(
            f"{type(choices).__name__} has no field optimizer that names a class of torch.optim; "
            "give ImageClassification(optimizer=...)"
        )
    if not hasattr(torch.optim, named):
        raise UserError(f"optimizer: torch.optim has no class {named}")
    if named == "SGD":
        options = {"momentum": MOMENTUM} | options
    return fastest(named, list(network.parameters()), **options)


def fastest(name: str, parameters: Sequence[Tensor], **options: Any) -> torch.optim.Optimizer:
    """Return the optimizer `torch.optim.NAME` in its fastest implementation."""
    make = getattr(torch.optim, name)
    if name in BLOCKED and parameters[0].device.type == "cpu":
        make = BLOCKED[name]
        options["foreach"] = False
    elif name in FUSED and parameters[0].device.type in ("cpu", "cuda"):
        options["fused"] = True
    elif "foreach" in inspect.signature(make).parameters:
        options["foreach"] = True
    optimizer: torch.optim.Optimizer = make(parameters, **options)
    return optimizer
