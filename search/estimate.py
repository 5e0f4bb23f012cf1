"""About how long an epoch takes on a device, from a second of real work."""

import time

import torch

from search.choices import Choices
from search.training import EVALUATED_AT_ONCE, Splits, Training, make_network

BATCHES = 8


def epoch_seconds(
    choices: Choices, splits: Splits, *, batch_size: int, device: torch.device
) -> float:
    """Train a few batches and return the wall time of a whole epoch with its evaluation.

    The first, slow batches are left out. Right within about a third on an idle machine.
    """
    few = Splits(
        train=splits.train.between(0, 2 * BATCHES * batch_size),
        validation=None,
        test=splits.test.between(0, EVALUATED_AT_ONCE),
        n_classes=splits.n_classes,
    )
    marks: list[float] = []
    training = Training(
        make_network(choices, splits, seed=0, device=device),
        choices,
        few,
        epochs=2,
        batch_size=batch_size,
        seed=0,
        after_batch=lambda batches: marks.append(_now(device)),
    )
    for _ in training.fit():
        pass
    n_train = -(-len(few.train) // batch_size)
    second = marks[n_train + 1 :]  # the batches of the second epoch, then one of evaluation
    per_batch = (second[n_train - 1] - second[0]) / (n_train - 1)
    per_image = (second[n_train] - second[n_train - 1]) / len(few.test)
    measured = splits.validation or splits.test
    return per_batch * len(splits.train) / batch_size + per_image * len(measured)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
