"""Measures a network's first batch normalization and its gradient during training."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from studies.cifar.batchnorm.records import NEAR_DEAD, Probe
from studies.cifar.network import Network

Batches = Sequence[tuple[Tensor, Tensor]]
"""Images (n, channels, size, size) and labels (n,), with the batch size of the training."""


class Watch:
    """Records the gradient and its amplification by the normalization for every training batch.

    It does not change the results of the training.
    """

    def __init__(self, network: Network, norm: nn.BatchNorm1d) -> None:
        self._network = network
        self._norm = norm
        self._gradients: list[Tensor] = []
        self._factors: list[Tensor] = []
        self._before = torch.tensor(0.0)
        norm.register_forward_hook(self._note)

    def after_batch(self, batches: int) -> None:
        if batches:
            gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
            self._gradients.append(torch.nn.utils.get_total_norm(gradients))

    def probe(self, batches: Batches) -> Probe:
        """Measure the network, and the gradients since the last call."""
        gradients = [float(value) for value in torch.stack(self._gradients).cpu()]
        factors = [float(value) for value in torch.stack(self._factors).cpu()]
        self._gradients, self._factors = [], []
        before = deepcopy(self._network.state_dict())
        try:
            with torch.no_grad():
                figures = self._measure(batches)
        finally:
            self._network.load_state_dict(before)
        return Probe(
            **figures,
            gradient_median=statistics.median(gradients),
            gradient_largest=max(gradients),
            amplification_median=statistics.median(factors),
            amplification_largest=max(factors),
            gradient_follows_amplification=_rank_correlation(gradients, factors),
        )

    def _note(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not torch.is_grad_enabled():
            return  # not a training step
        behind_relu = self._network.bn1 is self._norm
        passed = args[0] > 0 if behind_relu else torch.ones_like(args[0], dtype=torch.bool)

        def note_before(gradient: Tensor) -> None:
            self._before = gradient.norm()

        def note_after(gradient: Tensor) -> None:
            self._factors.append((gradient * passed).norm() / self._before)

        output.register_hook(note_before)
        args[0].register_hook(note_after)

    def _measure(self, batches: Batches) -> dict[str, float]:
        network, norm = self._network, self._norm
        variances = norm.running_var
        assert variances is not None
        lowest, median = float(variances.min()), float(variances.median())
        network.eval()
        with _seen(norm) as (inputs, outputs):
            eval_mode = _loss(network, batches)
        active = torch.cat(inputs if network.bn1 is norm else outputs) > 0  # (n, 512)
        largest = torch.cat(outputs).abs().amax(1)  # (n,)
        near_dead = active.double().mean(0) < NEAR_DEAD
        with _switched_off(network, norm, near_dead):
            near_dead_off = _loss(network, batches)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
        network.train()
        with _cumulative(network):
            train_mode = _loss(network, batches)
        network.eval()
        return {
            "train_mode_loss": train_mode,
            "eval_mode_loss": eval_mode,
            "fresh_statistics_loss": _loss(network, batches),
            "near_dead_off_loss": near_dead_off,
            "near_dead": int(near_dead.sum()),
            "dead": int((~active.any(0)).sum()),
            "variance_lowest": lowest,
            "variance_median": median,
            "largest_output": float(largest.max()),
            "beyond_training": float((largest > math.sqrt(len(batches[0][1]) - 1)).double().mean()),
        }


def _rank_correlation(first: list[float], second: list[float]) -> float:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(spearmanr(first, second).statistic)


def _loss(network: Network, batches: Batches) -> float:
    losses = [F.cross_entropy(network(x), labels, reduction="sum") for x, labels in batches]
    return float(torch.stack(losses).double().sum()) / sum(len(labels) for _, labels in batches)


@contextmanager
def _seen(norm: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collect the module's inputs and outputs, (n, 512) for each batch."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(args[0].clone())
        outputs.append(output.clone())  # a ReLU may change it in place

    handle = norm.register_forward_hook(note)
    try:
        yield inputs, outputs
    finally:
        handle.remove()


@contextmanager
def _switched_off(network: Network, norm: nn.Module, units: Tensor) -> Iterator[None]:
    """Keep `units`, (512,) bool, at zero after the ReLU."""

    def off(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0].masked_fill(units, 0.0)

    def off_after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.masked_fill(units, 0.0)

    if network.bn1 is norm:
        handle = norm.register_forward_pre_hook(off)
    else:
        handle = norm.register_forward_hook(off_after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _cumulative(network: Network) -> Iterator[None]:
    """Let the normalizations average their statistics equally over all batches."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
