"""The study that records learning curves: what it adds to the course's training."""

from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from optuna.pruners import NopPruner

from search.database.database import Database
from search.database.identity import study_ref
from search.database.studies import ORIGIN_KEY, join
from search.study import TPE, Study
from search.study.study_file import load
from search.vision.images import load_dataset
from search.vision.session import Splits
from studies.cifar import VARIANTS
from studies.curves import ranks
from studies.curves.cifar10 import AT_RANDOM
from studies.curves.partial_losses import RecordedSession
from studies.curves.table import Curve, read, recorded, write
from tests.support.images import run_of, session_of
from tests.support.made_up import add

STUDIES = Path(__file__).parents[2] / "studies" / "curves"
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


def test_the_studies_train_random_choices_and_then_good_ones_to_their_end() -> None:
    study, digits = (load(str(STUDIES / name)) for name in ("cifar10.py", "digits.py"))
    assert study.space.ranges == digits.space.ranges == load("cifar").space.ranges
    assert (study.trials, study.epochs, study.variants) == (260, 10, {})
    assert (digits.trials, digits.epochs, digits.variants) == (100, 10, {})
    assert study.trained_on == "the first 4000 of 50000 images"
    assert study.sampler == TPE(startup_trials=200)
    assert isinstance(study.pruner, NopPruner)


def test_the_table_has_a_line_for_each_trial_and_each_of_its_re_runs(
    database: Database, study: Study, tmp_path: Path
) -> None:
    small = replace(study, name="small", variants={}, epochs=2)
    joined = join(database, small, data_digest="none")
    add(database, joined, [0.1, 0.2])
    add(database, joined, [0.3, 0.4])
    again = join(database, replace(small, name="small-rerun"), data_digest="none")
    again.set_user_attr(ORIGIN_KEY, study_ref(joined).key)
    add(database, again, [0.5, 0.6], user_attrs={"trial": 1, "repeat": 0, "seed": 7})
    url = database.url.render_as_string(hide_password=False)
    write(tmp_path / "table.jsonl", recorded(url, "small"))
    found = read(tmp_path / "table.jsonl")
    assert [(curve.trial, curve.repeat, curve.metrics["test_accuracy"]) for curve in found] == [
        (0, None, (0.1, 0.2)),
        (1, None, (0.3, 0.4)),
        (1, 0, (0.5, 0.6)),
    ]


def test_every_third_random_trial_is_chosen_by_its_last_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def curve(trial: int, *accuracies: float, repeat: int | None = None) -> Curve:
        return Curve(
            trial=trial,
            repeat=repeat,
            choices={},
            seconds=(1.0,) * len(accuracies),
            metrics={"test_accuracy": accuracies},
        )

    curves = [curve(n, 0.5, last) for n, last in enumerate((0.1, 0.7, 0.4, 0.9, 0.2, 0.7))]
    curves += [
        curve(6, 0.99),  # it diverged
        curve(0, 0.5, 0.99, repeat=0),
        curve(AT_RANDOM, 0.5, 0.99),  # near the best, not at random
    ]
    write(tmp_path / "table.jsonl", curves)
    monkeypatch.setattr("sys.argv", ["ranks", "--every", "3", "--table", f"{tmp_path}/table.jsonl"])
    ranks.main()
    assert capsys.readouterr().out == "3 2\n"  # of 3, 1, 5, 2, 4, 0
