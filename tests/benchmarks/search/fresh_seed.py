"""A training of an incumbent with a fresh seed, in a process of a pool."""

import json
import math
from pathlib import Path

from search.study.seeds import derive_seed
from search.vision.images import load_dataset
from search.vision.session import Splits
from search.worker import device
from studies.cifar import Choices
from tests.support.images import run_of, session_of

Key = tuple[str, int, int, int]
"""Choices as JSON, images, epochs and the seed's number."""


def train(job: tuple[Key, Path]) -> tuple[Key, float]:
    key, data = job
    choices, images, epochs, seed = key
    device.prepare("cpu", 1)
    dataset = load_dataset("cifar10", data)
    splits = Splits(
        train=dataset.train.between(0, images),
        validation=None,
        test=dataset.test.between(0, min(images, len(dataset.test))),
        n_classes=10,
    )
    run = run_of(Choices(**json.loads(choices)), seed=derive_seed("benchmark", seed), epochs=epochs)
    accuracy = 0.0
    for metrics in session_of(splits).start(run).fit():
        accuracy = metrics["test_accuracy"]
        if not math.isfinite(metrics["test_loss"]):
            return key, 0.0  # diverged
    return key, accuracy
