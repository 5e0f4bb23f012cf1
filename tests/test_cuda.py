"""Training on a real CUDA device; without one there is nothing to test here."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from search.study.metrics import Epoch
from search.study.study import Study
from search.worker.guarded_training import GuardedTraining
from search.worker.machine import Machine
from tests.support.commands import Command

DEVICE = "cuda"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture
def machine(study: Study, tmp_path: Path) -> Iterator[Machine]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    yield Machine.of(study, device_name=DEVICE, threads=1, root=tmp_path, say=print)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.deterministic = before[1]


def _training(machine: Machine, study: Study) -> GuardedTraining:
    return machine.training(
        study,
        study.variants["question-3"],
        seed=3,
        is_detailed=True,
        after_batch=lambda batches: None,
    )


def _untimed(epochs: Iterator[Epoch]) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in epochs]


def test_an_epoch_gives_figures_and_the_same_ones_again(machine: Machine, study: Study) -> None:
    one, again = (next(_training(machine, study).epochs()) for _ in range(2))
    assert {"batch_loss", "train_accuracy", "test_accuracy"} < one.metrics.keys()
    assert all(map(math.isfinite, one.metrics.values()))
    assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(again, seconds=0.0)


def test_a_resumed_training_equals_an_undisturbed_one(machine: Machine, study: Study) -> None:
    undisturbed = _untimed(_training(machine, study).epochs())
    begun = _training(machine, study)
    epochs = begun.epochs()
    for _ in range(2):
        next(epochs)
    resumed = _training(machine, study)
    resumed.load(begun.state())
    assert _untimed(resumed.epochs(after=2)) == undisturbed[2:]


def test_a_stored_trial_is_replayed_bit_for_bit(
    search: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    options = ("--images", 160, "--epochs", 2, "--trials", 3)
    done = search("run", "--study", "digits", "--device", DEVICE, *options)
    assert done.returncode == 0, done.stderr
    again = search("reproduce", "--study", "digits", "--device", DEVICE, "--trial", 1)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "are the same, bit for bit" in again.stdout
