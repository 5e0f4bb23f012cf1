"""What a study's functions may return, and the networks and optimizers that it gets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search.errors import UserError
from search.vision import ImageShape
from search.vision.images import load_dataset
from search.vision.optimizers import by_name
from search.vision.session import Splits
from studies.cifar import Choices
from tests.support.images import run_of, session_of


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits.of(load_dataset("digits", Path()), n_train=64, device=torch.device("cpu"))


def _linear(choices: object, shape: ImageShape) -> nn.Module:
    n_inputs = shape.channels * shape.size**2
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(n_inputs), nn.Linear(n_inputs, 10))


def _sgd(choices: Choices, network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.5)


def test_a_study_trains_its_own_network_with_its_own_optimizer(
    splits: Splits, base: Choices
) -> None:
    session = session_of(splits)
    rates: list[tuple[int, int]] = []

    def learning_rate(choices: Choices, epoch: int, epochs: int) -> float:
        rates.append((epoch, epochs))
        return 0.25 / epoch

    own = replace(session.trainer, build=_linear, optimizer=_sgd, learning_rate=learning_rate)
    training = replace(session, trainer=own).start(run_of(base, epochs=2))
    assert isinstance(training.optimizer, torch.optim.SGD)
    assert len(list(training.fit())) == 2
    assert rates == [(1, 2), (2, 2)]
    assert training.optimizer.param_groups[0]["lr"] == 0.125


def test_without_a_function_the_learning_rate_is_the_optimizers(
    splits: Splits, base: Choices
) -> None:
    session = session_of(splits)
    own = replace(session.trainer, build=_linear, optimizer=_sgd, learning_rate=None)
    training = replace(session, trainer=own).start(run_of(base, epochs=1))
    list(training.fit())
    assert training.optimizer.param_groups[0]["lr"] == 0.5


def test_a_new_network_is_as_it_was_built(splits: Splits, base: Choices) -> None:
    session = session_of(splits)
    own = replace(session, trainer=replace(session.trainer, build=_linear))
    network = own.build(run_of(base))
    assert network.training
    assert network.get_buffer("1.num_batches_tracked").item() == 0


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda choices, shape: None, "build must return a torch.nn.Module, not None"),
        (
            lambda choices, shape: nn.Flatten(),
            r"output for images \(2, 1, 8, 8\) is \(2, 64\), not logits \(2, 10\)",
        ),
        (
            lambda choices, shape: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Flatten(0)),
            r"is \(20,\), not logits \(2, 10\)",
        ),
    ],
)
def test_a_network_of_another_shape_is_refused(
    splits: Splits, base: Choices, build: Callable[[Choices, ImageShape], Any], complaint: str
) -> None:
    session = session_of(splits)
    wrong = replace(session, trainer=replace(session.trainer, build=build))
    with pytest.raises(UserError, match=complaint):
        wrong.start(run_of(base))


def test_what_is_no_optimizer_is_refused(splits: Splits, base: Choices) -> None:
    session = session_of(splits)
    trainer = replace(session.trainer, optimizer=lambda choices, network: 0.1)  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match=r"optimizer must return an optimizer, not 0.1"):
        replace(session, trainer=trainer).start(run_of(base))


@dataclass(frozen=True, kw_only=True)
class SGD:
    lr: float
    nesterov: bool = False
    momentum: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Rprop:
    lr: float
    etas: tuple[float, float] = (0.4, 1.1)


@dataclass(frozen=True, kw_only=True)
class Branched:
    optimizer: object
    lr: float = 7.0
    """Of something else: the optimizer's own is in the branch."""


@dataclass(frozen=True, kw_only=True)
class Named:
    optimizer: str
    lr: float = 0.02


@dataclass(frozen=True, kw_only=True)
class Misspelled:
    optimizer: str
    learning_rate: float = 0.02


def test_the_name_of_an_optimizer_has_its_rates_beside_it() -> None:
    network = nn.Linear(2, 3)
    found = by_name(Named(optimizer="SGD"), network)
    assert type(found) is torch.optim.SGD
    assert found.defaults["lr"] == 0.02
    assert (found.defaults["momentum"], found.defaults["weight_decay"]) == (0.9, 0)
    assert type(by_name(Named(optimizer="NAdam"), network)) is torch.optim.NAdam


def test_the_fields_of_a_branch_are_the_arguments_of_the_optimizer() -> None:
    network = nn.Linear(2, 3)
    found = by_name(Branched(optimizer=SGD(lr=0.1, nesterov=True)), network)
    assert type(found) is torch.optim.SGD
    expected = {"lr": 0.1, "nesterov": True, "momentum": 0.5}
    assert {name: found.defaults[name] for name in expected} == expected
    assert by_name(Branched(optimizer=Rprop(lr=0.1)), network).defaults["etas"] == (0.4, 1.1)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        (SGD(lr=0.1), "SGD has no field optimizer that names a class of torch.optim; give Image"),
        (Branched(optimizer=3), "Branched has no field optimizer that names a class"),
        (Branched(optimizer=SGD), "Branched has no field optimizer that names a class"),
        (Named(optimizer="Lion"), "optimizer: torch.optim has no class Lion"),
        (Misspelled(optimizer="SGD"), "Misspelled names an optimizer, but has no field lr beside"),
    ],
)
def test_an_optimizer_that_is_not_there_is_refused(choices: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        by_name(choices, nn.Linear(2, 3))


def test_an_optimizer_without_a_fast_implementation_is_made_as_it_is() -> None:
    @dataclass(frozen=True)
    class LBFGS:
        lr: float

    @dataclass(frozen=True)
    class Choices:
        optimizer: LBFGS

    made = by_name(Choices(LBFGS(lr=0.5)), nn.Linear(2, 2))
    assert isinstance(made, torch.optim.LBFGS)
