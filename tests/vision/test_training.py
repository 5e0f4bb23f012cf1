import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

from search.study.study_file import load
from search.vision import ImageShape
from search.vision.images import Dataset, Images, load_dataset
from search.vision.session import ImageSession, Splits
from search.vision.training import ImageTraining
from search.worker.guarded_training import Diverged, GuardedTraining
from search.worker.machine import Machine
from studies.cifar import VARIANTS
from studies.cifar.choices import Choices, OptimizerName, Schedule, learning_rate
from studies.cifar.network import Network
from tests.support.images import run_of, session_of, training_of
from tests.support.reference_network import Report

pytestmark = pytest.mark.xdist_group("test_training")

CPU = torch.device("cpu")
OPTIMIZERS = get_args(OptimizerName)
SCHEDULES = get_args(Schedule)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", Path())


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Splits:
    """128 images to train on: four batches an epoch."""
    return Splits.of(digits, n_train=128, device=CPU)


def _training(
    choices: Choices, splits: Splits, *, dtype: torch.dtype = torch.float32, **options: Any
) -> ImageTraining:
    network = session_of(splits).build(run_of(choices)).to(dtype)
    return training_of(network, splits, run_of(choices, **options))


def _plain_loop(
    choices: Choices, initial: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]],
    batches_per_epoch: int, epochs: int,
) -> tuple[Report, list[float]]:  # fmt: skip
    """Train as a student would, with the batches given: plain layers, `torch.optim`, its scheduler,
    one loss at a time."""
    channels, size = batches[0][0].shape[1:3]
    network = Report(choices, channels=channels, size=size).to(batches[0][0].dtype)
    network.load_state_dict(initial.state_dict())
    momentum = {"momentum": 0.9} if choices.optimizer == "SGD" else {}
    optimizer = getattr(torch.optim, choices.optimizer)(
        network.parameters(), lr=choices.lr, weight_decay=choices.weight_decay,
        foreach=False, **momentum,
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    losses = []
    network.train()
    for number, (images, labels) in enumerate(batches, start=1):
        loss = nn.CrossEntropyLoss()(network(images.contiguous()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if choices.schedule == "cosine" and number % batches_per_epoch == 0:
            scheduler.step()
    return network, losses


def _batches(
    splits: Splits, training: ImageTraining, epochs: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches that `training` trains on: seen from outside, in the forward pass."""
    seen: list[torch.Tensor] = []
    hook = training.network.register_forward_pre_hook(
        lambda network, inputs: seen.append(inputs[0].clone()) if network.training else None
    )
    list(itertools.islice(training.fit(), epochs))
    hook.remove()
    pixels = torch.cat([batch for batch, _ in splits.train.batches(256, dtype=seen[0].dtype)])
    for batch in seen:
        found = (batch[:, None] == pixels[None]).flatten(2).all(2).nonzero()[:, 1]
        yield batch, splits.train.labels[found]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twenty_steps_give_the_weights_of_a_plain_loop(
    optimizer: OptimizerName, schedule: Schedule, few: Splits
) -> None:
    # At 0.002 AdamW's division by near-zero second moments has amplified rounding to 3e-8.
    choices = Choices(
        bn1="plain", bn2="affine", extra_fc=True, conv_bias=True, fc_bias=True,
        optimizer=optimizer, lr=0.0005, weight_decay=1e-3, schedule=schedule,
    )  # fmt: skip
    initial = _training(choices, few, dtype=torch.float64)
    weights = {name: tensor.clone() for name, tensor in initial.network.state_dict().items()}
    training = _training(choices, few, dtype=torch.float64)
    batches = list(_batches(few, training, epochs=5))  # of 4 steps each
    assert len(batches) == 20
    initial.network.load_state_dict(weights)
    plain, _ = _plain_loop(choices, initial.network, batches, batches_per_epoch=4, epochs=5)
    theirs = plain.state_dict()
    for name, ours in training.network.state_dict().items():
        torch.testing.assert_close(ours, theirs[name], rtol=0, atol=1e-8, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_in_float32_are_those_of_a_plain_loop(variant: str, few: Splits) -> None:
    choices = VARIANTS[variant]
    initial = _training(choices, few)
    training = _training(choices, few)
    losses = [metrics["batch_loss"] for metrics in _training(choices, few).fit()]
    batches = list(_batches(few, training, epochs=5))
    _, theirs = _plain_loop(choices, initial.network, batches, batches_per_epoch=4, epochs=5)
    means = [sum(theirs[start : start + 4]) / 4 for start in range(0, 20, 4)]
    assert losses == pytest.approx(means, abs=1e-3)


def test_every_image_is_trained_on_once_an_epoch_in_a_new_order(few: Splits) -> None:
    batches = list(_batches(few, _training(VARIANTS["base"], few), epochs=2))
    means = torch.cat([batch.mean((1, 2, 3)) for batch, _ in batches])
    first, second = means[:128], means[128:]
    torch.testing.assert_close(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_figures_bit_for_bit(
    optimizer: OptimizerName, digits: Dataset
) -> None:
    splits = Splits.of(digits, n_train=320, device=CPU)
    choices = dataclasses.replace(VARIANTS["question-4.2"], optimizer=optimizer)
    runs = [_figures(_training(choices, splits, is_detailed=True)) for _ in range(2)]
    assert runs[0] == runs[1]
    other = _figures(_training(choices, splits, is_detailed=True, seed=4))
    assert runs[0] != other


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_training_gives_the_figures_it_would_have(
    optimizer: OptimizerName, after: int, digits: Dataset
) -> None:
    splits = Splits.of(digits, n_train=320, device=CPU)
    choices = dataclasses.replace(VARIANTS["question-4.2"], optimizer=optimizer, schedule="cosine")
    whole = _figures(_training(choices, splits))
    first, second = _training(choices, splits), _training(choices, splits)
    begun = first.fit()
    for _ in range(after):
        next(begun)
    second.load_state_dict(first.state_dict())
    assert _figures(second, after=after) == whole[after:]


def _figures(training: ImageTraining, after: int = 0) -> list[dict[str, float]]:
    return [dict(metrics) for metrics in training.fit(after)]


def test_figures_are_measured_in_eval_mode_over_the_whole_split(digits: Dataset) -> None:
    splits = Splits.of(digits, n_train=310, device=CPU)
    training = _training(VARIANTS["question-4.2"], splits, epochs=2, is_detailed=True)
    *_, last = training.fit()
    training.network.eval()
    for split in ("train", "test"):
        loss, accuracy = last[f"{split}_loss"], last[f"{split}_accuracy"]
        images: Images = getattr(splits, split)
        pixels = torch.cat(images.parts) / 127.5 - 1
        with torch.no_grad():
            scores = training.network(pixels)
        assert loss == pytest.approx(F.cross_entropy(scores, images.labels).item(), rel=1e-5)
        hits = (scores.argmax(1) == images.labels).sum().item()
        assert accuracy == pytest.approx(hits / len(images), abs=1e-12)


def test_train_figures_are_measured_only_if_asked(digits: Dataset) -> None:
    splits = Splits.of(digits, n_train=64, device=CPU)
    metrics = next(_training(VARIANTS["base"], splits).fit())
    assert list(metrics) == ["batch_loss", "test_loss", "test_accuracy"]
    for asked in ({"is_detailed": True}, {"metric": "train_loss"}):
        metrics = next(_training(VARIANTS["base"], splits, **asked).fit())
        assert {"train_loss", "train_accuracy"} < metrics.keys()


def test_a_quick_look_is_held_out_and_tested_on_as_few_images(digits: Dataset) -> None:
    study = load("digits").changed({"images": 64}).select("validation")
    machine = Machine.of(study, device_name="cpu", threads=None, root=Path(), say=print)
    assert isinstance(machine.session, ImageSession)
    splits = machine.session.splits
    assert splits.validation is not None
    assert torch.equal(splits.train.labels, digits.train.labels[:64])
    assert torch.equal(splits.validation.labels, digits.train.labels[-64:])
    assert torch.equal(splits.test.labels, digits.test.labels[:64])
    assert torch.equal(splits.test.parts[0], digits.test.parts[0][:64])


def test_validation_leaves_test_images_for_the_last_epoch(
    digits: Dataset,
) -> None:
    splits = Splits.of(digits, n_train=1438 - 143, n_held_out=143, device=CPU)
    assert splits.validation is not None
    assert len(splits.validation) == 143  # the last tenth of 1,438
    assert torch.equal(splits.validation.labels, digits.train.labels[-143:])
    assert len(splits.train) == 1438 - 143

    class Guarded(Images):
        allowed = False

        def batches(self, *args, **options):  # type: ignore[no-untyped-def]
            assert self.allowed, "the test images were touched"
            return super().batches(*args, **options)

    guarded = Guarded(splits.test.parts, splits.test.labels)
    fewer = dataclasses.replace(splits, train=splits.train.between(0, 64), test=guarded)
    epochs = _training(VARIANTS["base"], fewer, epochs=3, metric="validation_accuracy").fit()
    for metrics in itertools.islice(epochs, 2):
        assert list(metrics) == ["batch_loss", "validation_loss", "validation_accuracy"]
    Guarded.allowed = True
    assert {"validation_accuracy", "test_loss", "test_accuracy"} < next(epochs).keys()


def test_a_diverging_network_ends_within_its_epoch(digits: Dataset) -> None:
    splits = Splits.of(digits, n_train=320, device=CPU)
    wild = dataclasses.replace(VARIANTS["base"], lr=1e20)
    with pytest.raises(Diverged, match=r"batch_loss is (nan|inf) in epoch 1"):
        next(GuardedTraining(session_of(splits), run_of(wild)).epochs())


def test_an_error_of_after_batch_ends_the_training(digits: Dataset) -> None:
    splits = Splits.of(digits, n_train=320, device=CPU)
    counts: list[int] = []

    def after_batch(batches: int) -> None:
        counts.append(batches)
        if batches == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        next(_training(VARIANTS["base"], splits, after_batch=after_batch).fit())
    assert counts == [1, 2, 3]


def test_the_cosine_goes_from_the_full_rate_towards_zero(base: Choices) -> None:
    cosine = dataclasses.replace(base, lr=0.08, schedule="cosine")
    rates = [learning_rate(cosine, number, 4) for number in range(1, 5)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([0.08, 0.04 * (1 + half), 0.04, 0.04 * (1 - half)])
    assert [learning_rate(base, number, 4) for number in (1, 4)] == [0.01, 0.01]


@pytest.mark.slow
def test_numbers_below_the_smallest_normal_one_are_flushed_in_every_thread() -> None:
    code = (
        "import sys, torch; from search.worker.device import prepare\n"
        "if sys.argv[1] == 'prepared': prepare('cpu', threads=2)\n"
        "print(torch.full((1 << 20,), 1e-38).mul(0.01).count_nonzero().item())"
    )
    left = [
        subprocess.run(
            [sys.executable, "-c", code, how], capture_output=True, text=True, check=True
        ).stdout
        for how in ("plain", "prepared")
    ]
    assert left == [f"{1 << 20}\n", "0\n"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_loss_stay_on_cuda(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fake tensors, which have a device and no data: a misplaced tensor raises."""
    # Else autocast turns itself off where there is no CUDA, fake tensors or not.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    cuda = torch.device("cuda")
    with FakeTensorMode(), cuda:
        choices = VARIANTS[variant]
        images = Images(
            (torch.empty(70, 3, 32, 32, dtype=torch.uint8),), torch.empty(70, dtype=torch.int64)
        )
        splits = Splits(train=images, validation=None, test=images, n_classes=10)
        network = Network(choices, ImageShape(channels=3, size=32, n_classes=10))
        training = training_of(network, splits, run_of(choices), precision="bfloat16")
        sizes = []
        order = torch.randperm(70, device="cpu")
        for pixels, labels in images.batches(32, order=order):
            loss = training.loss(pixels, labels)
            sizes.append(len(labels))
            assert (pixels.device.type, labels.device.type) == ("cuda", "cuda")
            assert pixels.is_contiguous(memory_format=torch.channels_last)
            assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)
        assert sizes == [32, 32, 6]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert network(pixels).dtype == torch.bfloat16
