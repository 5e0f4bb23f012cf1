"""The study that records learning curves: what it adds to the course's training."""

from dataclasses import fields
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from search.study.study_file import load
from search.vision.images import load_dataset
from search.vision.session import Splits
from studies.cifar import VARIANTS
from studies.curves.partial_losses import RecordedSession
from tests.support.images import run_of, session_of

STUDY = Path(__file__).parents[2] / "studies" / "curves" / "random_choices.py"
PARTS = ["batch_loss_eighth", "batch_loss_quarter", "batch_loss_half"]


def test_the_first_epoch_has_its_partial_losses_and_the_others_are_the_courses() -> None:
    splits = Splits.of(load_dataset("digits", Path()), n_train=80, device=torch.device("cpu"))
    plain = session_of(splits)
    recorded = RecordedSession(
        **{field.name: getattr(plain, field.name) for field in fields(plain)}
    )
    run = run_of(VARIANTS["question-3"], epochs=2)
    first, second = recorded.start(run).fit()
    expected = list(plain.start(run).fit())
    assert {name: value for name, value in first.items() if name not in PARTS} == expected[0]
    assert second == expected[1]

    # Of three batches, an eighth and a quarter are the first, and a half is the first two.
    by_hand = plain.start(run)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(run.seed_for("order", 1)))
    losses = []
    for pixels, labels in islice(splits.train.batches(32, order=order), 2):
        loss = F.cross_entropy(by_hand.network.train()(pixels), labels)
        by_hand.optimizer.zero_grad()
        loss.backward()
        by_hand.optimizer.step()
        losses.append(loss.item())
    assert first["batch_loss_eighth"] == first["batch_loss_quarter"] == pytest.approx(losses[0])
    assert first["batch_loss_half"] == pytest.approx(sum(losses) / 2)


def test_the_study_trains_random_choices_to_their_end() -> None:
    study = load(str(STUDY))
    assert study.space.ranges == load("cifar").space.ranges
    assert (study.trials, study.epochs, study.variants) == (200, 10, {})
    assert study.trained_on == "the first 4000 of 50000 images"
