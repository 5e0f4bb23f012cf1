"""About how long an epoch takes on a device, from a second of real work."""

import time

import torch

from search.study.choices import Choices
from search.vision.training import EVALUATED_AT_ONCE, NonFiniteLoss, Splits, Training, make_network
from search.worker.device import is_out_of_memory
from search.worker.session import Machine

BATCHES = 8


def in_words(seconds: float | None) -> str:
    """Return the estimate as the end of a sentence; nothing for None."""
    if seconds is None:
        return ""
    took = f"{seconds:.2g} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    return f": an epoch takes about {took}"


def epoch_seconds(choices: Choices, machine: Machine, *, batch_size: int) -> float | None:
    """Train a few batches and return the wall time of a whole epoch with its evaluation.

    The first, slow epoch is left out. Right within about a third on an idle machine. None if the
    network cannot be trained: why is for its trial to say.
    """
    splits, device = machine.splits, machine.device
    few = Splits(
        train=splits.train.between(0, 2 * BATCHES * batch_size),
        validation=None,
        test=(splits.validation or splits.test).between(0, EVALUATED_AT_ONCE),
        n_classes=splits.n_classes,
    )
    marks: list[float] = []
    try:
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
    except NonFiniteLoss:
        return None
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise
    # Marks of an epoch: one a batch of training, then one for the only batch of evaluation.
    n_batches = -(-len(few.train) // batch_size)
    began, trained, evaluated = marks[n_batches], marks[2 * n_batches], marks[2 * n_batches + 1]
    measured = splits.validation or splits.test
    return (trained - began) * len(splits.train) / len(few.train) + (evaluated - trained) * len(
        measured
    ) / len(few.test)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
