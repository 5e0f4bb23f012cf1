"""What a probe measures, against the same worked out by hand."""

import math
import statistics
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.errors import UserError
from search.vision.images import load_dataset
from search.vision.session import Splits
from search.vision.training import ImageTraining
from studies.cifar import VARIANTS
from studies.cifar.batchnorm.changes import CHANGES
from studies.cifar.batchnorm.measure import Batches, Watch
from studies.cifar.batchnorm.records import ProbedEpoch, append, collapsed, read
from studies.cifar.network import Network
from tests.support.images import run_of, session_of, training_of

pytestmark = pytest.mark.xdist_group("test_batchnorm_measure")

CPU = torch.device("cpu")
WHICH = {
    "variant": "question-1",
    "change": "none",
    "seed": 1,
    "dataset": "digits",
    "data": "0123",
    "images": None,
    "epochs": 3,
    "batch_size": 32,
    "choices": "bn1=plain lr=0.01",
}


@pytest.fixture(scope="module")
def few() -> Splits:
    return Splits.of(load_dataset("digits", Path()), n_train=128, device=CPU)


@pytest.fixture(scope="module")
def batches(few: Splits) -> Batches:
    return list(few.train.batches(32))


@pytest.fixture
def network(few: Splits) -> Network:
    return _network(few)


def _network(few: Splits) -> Network:
    made = session_of(few).build(run_of(VARIANTS["question-1"]))
    assert isinstance(made, Network)
    return made


def _training(network: Network, few: Splits, after_batch: Callable[[int], None]) -> ImageTraining:
    run = run_of(VARIANTS["question-1"], epochs=3, after_batch=after_batch)
    return training_of(network, few, run)


def _figures(
    training: ImageTraining, after_epoch: Callable[[], object] = lambda: None
) -> list[float]:
    found = []
    for metrics in training.fit():
        found += [metrics[name] for name in ("batch_loss", "test_loss", "test_accuracy")]
        after_epoch()
    return found


def _mean(losses: list[Tensor]) -> float:
    return float(torch.stack(losses).detach().mean())


def test_a_probe_changes_no_figure_of_the_training(
    network: Network, few: Splits, batches: Batches
) -> None:
    twin = _network(few)
    watch = Watch(network, CHANGES["none"](network))
    probed = _figures(_training(network, few, watch.after_batch), lambda: watch.probe(batches))
    assert probed == _figures(_training(twin, few, lambda batches: None))


def test_losses_are_those_of_each_mode_on_the_same_batches(
    network: Network, few: Splits, batches: Batches
) -> None:
    watch = Watch(network, CHANGES["none"](network))
    _figures(_training(network, few, watch.after_batch))
    probe = watch.probe(batches)
    with torch.no_grad():
        hidden = [F.relu(_before_fc1(network, x) @ network.fc1.weight.T + network.fc1.bias)
                  for x, _ in batches]  # fmt: skip
        norm = network.bn1
        assert isinstance(norm, nn.BatchNorm1d)
        running_mean, running_var = norm.running_mean, norm.running_var
        assert running_mean is not None
        assert running_var is not None
        mean = torch.stack([x.mean(0) for x in hidden]).mean(0)
        variance = torch.stack([x.var(0) for x in hidden]).mean(0)
        labels = [target for _, target in batches]

        def loss(normalized: list[Tensor]) -> float:
            return _mean([
                F.cross_entropy(network.fc2(x), y) for x, y in zip(normalized, labels, strict=True)
            ])  # fmt: skip

        in_eval = [(x - running_mean) * (running_var + 1e-5).rsqrt() for x in hidden]
        in_train = [(x - x.mean(0)) * (x.var(0, correction=0) + 1e-5).rsqrt() for x in hidden]
        fresh = [(x - mean) * (variance + 1e-5).rsqrt() for x in hidden]
        active = (torch.cat(hidden) > 0).double().mean(0)
        off = [(x * (active >= 0.01) - running_mean) * (running_var + 1e-5).rsqrt() for x in hidden]
        largest = torch.cat(in_eval).abs().amax(1)
    assert probe.eval_mode_loss == pytest.approx(loss(in_eval), rel=1e-4)
    assert probe.train_mode_loss == pytest.approx(loss(in_train), rel=1e-4)
    assert probe.fresh_statistics_loss == pytest.approx(loss(fresh), rel=1e-4)
    assert probe.near_dead_off_loss == pytest.approx(loss(off), rel=1e-4)
    assert probe.near_dead == int((active < 0.01).sum()) > 0
    assert probe.dead == int((active == 0).sum())
    assert probe.variance_lowest == pytest.approx(float(running_var.min()))
    assert probe.variance_median == pytest.approx(float(running_var.median()))
    assert probe.largest_output == pytest.approx(float(largest.max()), rel=1e-4)
    assert probe.beyond_training == float((largest > math.sqrt(31)).double().mean())


def _before_fc1(network: Network, images: Tensor) -> Tensor:
    x = F.relu(network.conv1(images))
    x = F.max_pool2d(F.relu(network.conv2(x)), 2)
    x = F.relu(network.conv3(x))
    return F.max_pool2d(F.relu(network.conv4(x)), 2).flatten(1)


@pytest.mark.parametrize("change", CHANGES)
def test_gradients_are_those_of_the_batches_of_the_epoch(
    change: str, network: Network, batches: Batches
) -> None:
    norm = CHANGES[change](network)
    watch = Watch(network, norm)
    norms, factors = [], []
    for images, labels in batches:
        seen: list[Tensor] = []
        handle = norm.register_forward_hook(
            lambda module, args, output, seen=seen: seen.extend((args[0], output.clone()))
        )
        network.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        handle.remove()
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
        factors.append(_amplification(change, seen[0].detach(), norm, network, labels))
        watch.after_batch(1)
    probe = watch.probe(batches)
    assert probe.gradient_largest == pytest.approx(max(norms), rel=1e-4)
    assert probe.gradient_median == pytest.approx(statistics.median(norms), rel=1e-4)
    assert probe.amplification_largest == pytest.approx(max(factors), rel=1e-3)
    assert probe.amplification_median == pytest.approx(statistics.median(factors), rel=1e-3)


def _amplification(
    change: str, x: Tensor, norm: nn.BatchNorm1d, network: Network, labels: Tensor
) -> float:
    """Take what goes into the normalization, and follow it to the loss."""
    x = x.requires_grad_()
    y = (x - x.mean(0)) * (x.var(0, correction=0) + norm.eps).rsqrt()
    after = F.relu(y) if change == "before-relu" else y
    of_x, of_y = torch.autograd.grad(F.cross_entropy(network.fc2(after), labels), (x, y))
    passed = of_x if change == "before-relu" else of_x[x > 0]
    return float(passed.norm() / of_y.norm())


def test_the_normalization_stands_before_the_relu_where_asked(
    network: Network, batches: Batches
) -> None:
    images = batches[0][0]
    twin_fc1 = nn.Linear(network.fc1.in_features, 512)
    twin_fc1.load_state_dict(network.fc1.state_dict())
    CHANGES["before-relu"](network)
    network.train()
    with torch.no_grad():
        x = twin_fc1(_before_fc1(network, images))
        normalized = (x - x.mean(0)) * (x.var(0, correction=0) + 1e-5).rsqrt()
        expected = network.fc2(F.relu(normalized))
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)


def _run(*accuracies: float) -> list[ProbedEpoch]:
    figures = {field.name: 0.5 for field in fields(ProbedEpoch)} | WHICH | {"repeat": 0}
    return [
        ProbedEpoch(**figures | {"number": n, "test_accuracy": a})  # type: ignore[arg-type]
        for n, a in enumerate(accuracies, start=1)
    ]


def test_accuracy_has_collapsed_where_it_is_far_below_the_best_before() -> None:
    assert collapsed(_run(0.6, 0.7, 0.61, 0.59, 0.8, 0.69)) == [
        False, False, False, True, False, True,
    ]  # fmt: skip
    last = ProbedEpoch.not_finite(**WHICH, repeat=0, number=3)
    assert collapsed([*_run(0.6, 0.7), last]) == [False, False, True]


def test_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "probes.csv"
    run = [*_run(1 / 3, 0.7), ProbedEpoch.not_finite(**WHICH, repeat=0, number=3)]
    append(path, run)
    others = [replace(epoch, images=96) for epoch in _run(0.1)]
    append(path, others)
    found = read([path], "--show")
    assert [[str(e) for e in of] for of in found] == [[str(e) for e in of] for of in (run, others)]
    append(path, _run(0.3))  # by somebody else who has trained the same
    assert read([path, path], "--show") == [_run(0.3), others]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a file written by --out"):
        read([path], "--show")
