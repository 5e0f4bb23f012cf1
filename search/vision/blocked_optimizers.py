"""Optimizers that PyTorch has no fused implementation of on the CPU, in blocks.

`foreach` goes through a large tensor once for each operation of an update. In blocks, all
operations of an update find a block in the processor's caches, with the same results bit for bit.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 2**17
"""Number of elements of a block: 0.5 MB of each tensor in float32. With less, the calls take longer
than the memory."""


class _InBlocks:
    """Gives an optimizer's functional API blocks of the tensors; its state stays whole."""

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[misc]
        *tensors, steps = lists
        used = [one for one in tensors if one]  # such as none for a momentum of 0
        split = [_blocks(of_parameter) for of_parameter in zip(*used, strict=True)]
        for number, one in enumerate(used):
            one[:] = [block[number] for blocks in split for block in blocks]
        # Each block counts the step; the parameter's own counter is that of its first one.
        steps[:] = [
            step.clone() if number else step
            for step, blocks in zip(steps, split, strict=True)
            for number in range(len(blocks))
        ]
        return has_complex


class Adamax(_InBlocks, torch.optim.Adamax):
    pass


class RMSprop(_InBlocks, torch.optim.RMSprop):
    pass


def _blocks(tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Return views of equal parts of the tensors, which have one shape."""
    if tensors[0].numel() <= BLOCK:
        return [tensors]
    axes = tuple(range(tensors[0].dim()))
    for order in (axes, (0, 2, 3, 1) if len(axes) == 4 else axes):  # contiguous, channels last
        laid_out = [one.detach().permute(order) for one in tensors]
        if all(one.is_contiguous() for one in laid_out):
            return list(zip(*(one.view(-1).split(BLOCK) for one in laid_out), strict=True))
    return [tensors]
