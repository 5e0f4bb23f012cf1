"""With what a stored trial is replayed, and what is said of it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

from search.study.trial_attributes import ENVIRONMENTS
from search.worker.environment import Environment, environment
from search.worker.replay import place, told

SESSION = SimpleNamespace(digest="digest", precision="float32")


def _cpu(threads: int) -> Environment:
    return environment("cpu", threads=threads, session=cast(Any, SESSION), uses_torch=True)


CUDA: Environment = {
    **_cpu(1),
    "device": "NVIDIA H100",
    "threads": None,
    "precision": "bfloat16",
    "cuda": "13.0",
    "cudnn": 91002,
}


def _trial(*environments: Environment) -> FrozenTrial:
    trial = optuna.trial.create_trial(value=0.5, system_attrs={ENVIRONMENTS: list(environments)})
    trial.number = 17
    return trial


def _as_an_earlier_version_stored_it(trial: FrozenTrial) -> FrozenTrial:
    environments = trial.system_attrs[ENVIRONMENTS]
    return optuna.trial.create_trial(value=0.5, user_attrs={"environments": environments})


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("environments", "device", "threads", "found"),
    [
        ([_cpu(1)], "auto", None, ("cpu", 1)),
        ([_cpu(96)], "auto", None, ("cpu", 96)),
        ([_cpu(2), _cpu(1)], "auto", None, ("cpu", 1)),
        ([_cpu(1)], "auto", 2, ("cpu", 2)),
        ([_cpu(3)], "cpu", None, ("cpu", 3)),
        ([CUDA], "auto", None, ("auto", None)),  # and this machine has none
        ([CUDA], "auto", 2, ("auto", 2)),
        ([CUDA, _cpu(1)], "auto", None, ("cpu", 1)),
        ([], "auto", None, ("auto", None)),
    ],
)
def test_a_trial_is_replayed_as_it_was_last_trained_unless_the_user_asks_for_something_else(
    environments: Sequence[Environment],
    device: str,
    threads: int | None,
    found: tuple[str, int | None],
) -> None:
    trial = _trial(*environments)
    assert place(trial, device, threads) == found
    assert place(_as_an_earlier_version_stored_it(trial), device, threads) == found


def test_where_there_is_cuda_a_trial_of_a_cpu_is_replayed_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place(_trial(_cpu(1)), "auto", None) == ("cpu", 1)
    assert place(_trial(CUDA), "auto", None) == ("cuda", None)


@pytest.mark.parametrize(
    ("environments", "now", "asked", "line"),
    [
        ([_cpu(1)], _cpu(1), [], "with 1 thread, as it was trained."),
        (
            [_cpu(2), _cpu(1)],
            _cpu(1),
            [],
            "with 1 thread, as it was trained in the last of its 2 environments.",
        ),
        (
            [_cpu(1)],
            _cpu(2),
            ["--threads"],
            "with 2 threads, as you ask by --threads; it was trained with 1 thread.",
        ),
        ([CUDA], CUDA, [], "on NVIDIA H100 in bfloat16, as it was trained."),
        (
            [CUDA],
            _cpu(2),
            [],
            "with 2 threads; it was trained on NVIDIA H100 in bfloat16, which is not "
            "available here.",
        ),
        ([], _cpu(2), [], "with 2 threads; what it was trained with is not recorded."),
    ],
)
def test_a_replay_says_what_it_is_made_with(
    environments: Sequence[Environment], now: Environment, asked: Sequence[str], line: str
) -> None:
    assert told(_trial(*environments), now, asked) == f"Replaying trial 17 {line}"


def test_an_environment_has_its_precision() -> None:
    assert _cpu(1)["precision"] == "float32"
