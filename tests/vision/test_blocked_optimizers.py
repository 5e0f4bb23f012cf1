"""The optimizers in blocks give PyTorch's own results, bit for bit, and keep its state."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from search.vision.blocked_optimizers import BLOCK
from search.vision.optimizers import fastest

CASES = [
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 1e-2, "betas": (0.8, 0.99)}),
    ("RMSprop", {}),
    ("RMSprop", {"weight_decay": 1e-2, "momentum": 0.9, "centered": True}),
]


def _parameters() -> list[Tensor]:
    """Parameters of every kind of layout and size; of the last one there is never a gradient."""
    torch.manual_seed(0)
    shapes = [(600, 500), (7,), (128, 256, 3, 3), (BLOCK,), (BLOCK + 1,), (3,)]
    made = [torch.randn(shape) for shape in shapes]
    made[2] = made[2].to(memory_format=torch.channels_last)
    made[0] = torch.randn(500, 600).t()  # neither contiguous nor channels last
    return [one.requires_grad_() for one in made]


def _step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], number: int) -> None:
    torch.manual_seed(number)
    for parameter in parameters[:-1]:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_bit_is_that_of_pytorchs_own(name: str, options: dict[str, Any]) -> None:
    ours, theirs = _parameters(), _parameters()
    own = fastest(name, ours, lr=0.1, **options)
    of_pytorch = getattr(torch.optim, name)(theirs, lr=0.1, foreach=True, **options)
    assert type(own) is not type(of_pytorch)
    for number in range(4):
        _step(own, ours, number)
        _step(of_pytorch, theirs, number)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    kept, expected = own.state_dict()["state"], of_pytorch.state_dict()["state"]
    assert kept.keys() == expected.keys() == {0, 1, 2, 3, 4}
    for parameter, state in expected.items():
        assert kept[parameter].keys() == state.keys()
        for entry, value in state.items():
            assert torch.equal(kept[parameter][entry], value)
            assert kept[parameter][entry].stride() == value.stride()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_its_state_resumes_in_a_new_one(name: str, options: dict[str, Any]) -> None:
    whole, parts = _parameters(), _parameters()
    undisturbed, first = (fastest(name, of, lr=0.1, **options) for of in (whole, parts))
    for number in range(2):
        _step(undisturbed, whole, number)
        _step(first, parts, number)
    second = fastest(name, parts, lr=0.1, **options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(2, 4):
        _step(undisturbed, whole, number)
        _step(second, parts, number)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
