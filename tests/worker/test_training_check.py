"""`search.reproduce --check`: it finds what is not repeatable in a training, and says why."""

import re
from pathlib import Path

import pytest

from tests.support.commands import Command

STUDY = """
# IMPORTS
import random
from dataclasses import dataclass
from typing import Annotated, Literal

from optuna.distributions import FloatDistribution

from search.study import Study


@dataclass(frozen=True, kw_only=True)
class Slow:
    steps: Literal[1, 2]


@dataclass(frozen=True, kw_only=True)
class Fast:
    nesterov: bool


@dataclass(frozen=True, kw_only=True)
class Choices:
    lr: Annotated[float, FloatDistribution(0.1, 0.4)]
    kind: Literal["a", "b"]
    how: Slow | Fast


class Descent:
    def __init__(self, run):
        self.run, self.x, self.lr = run, 1.0, run.choices.lr
        self.own = random.Random(run.seed)

    def fit(self, after=0):
        for epoch in range(after + 1, self.run.epochs + 1):
            self.x -= self.lr * self.x + 0.01 * random.random()
            # HERE
            yield {"loss": self.x}
            # AFTER

    def state_dict(self):
        return {"x": self.x, "lr": self.lr}

    def load_state_dict(self, state):
        self.x, self.lr = state["x"], state["lr"]


study = Study(
    name="descent", choices=Choices, train=Descent, metric="loss", direction="minimize", epochs=9
)
"""
RESUME = r"resume: loss is \S+ and then \S+ after epoch %d; the likely cause is state that "


def _checked(folder: Path, search: Command, *options: object, **changes: str) -> tuple[int, str]:
    text = STUDY
    for place, code in changes.items():
        assert f"# {place}" in text
        text = text.replace(f"# {place}", code)
    (folder / "descent.py").write_text(text)
    done = search("reproduce", "--study", "descent.py", "--check", *options)
    assert done.stderr == ""
    assert not (folder / "search.db").exists()
    return done.returncode, done.stdout


def test_a_repeatable_training_passes_with_every_category(tmp_path: Path, search: Command) -> None:
    status, told = _checked(tmp_path, search)
    assert status == 0
    assert told.endswith(
        "The training can be resumed and replayed: all metrics are the same with a resume after "
        "each epoch (epochs: 4 of 9; --epochs 9 compares all).\n"
    )
    checked = re.findall(r"^Checking choices \d of \d: (.*)$", told, re.MULTILINE)
    assert {word for line in checked for word in line.split() if not word.startswith("lr=")} == {
        "kind=a", "kind=b", "how=Slow", "how=Fast", "how.Slow.steps=1", "how.Slow.steps=2",
        "how.Fast.nesterov=true", "how.Fast.nesterov=false",
    }  # fmt: skip
    undisturbed, resumed = (
        re.findall(rf"^\[{what}\] (EPOCH: .*)$", told, re.MULTILINE)
        for what in ("undisturbed", "resumed")
    )
    assert undisturbed == resumed
    assert len(undisturbed) == 4 * len(checked)


@pytest.mark.parametrize(
    ("epoch", "changes"),
    [
        (2, {"HERE": "self.x += self.own.random()"}),
        (3, {"HERE": "self.n = getattr(self, 'n', 0) + 1; self.x += self.n > 2"}),
        (3, {"AFTER": "self.lr = 0.05 if epoch == 2 else self.lr"}),
        (4, {"AFTER": "self.x = 5.0 if epoch == 3 else self.x"}),
    ],
    ids=["own-generator", "state", "after-the-yield", "later"],
)
def test_what_does_not_resume_is_named_with_its_epoch(
    epoch: int, changes: dict[str, str], tmp_path: Path, search: Command
) -> None:
    status, told = _checked(tmp_path, search, **changes)
    assert status == 1
    assert re.search(RESUME % epoch, told), told


def test_what_does_not_replay_is_told_apart(tmp_path: Path, search: Command) -> None:
    status, told = _checked(tmp_path, search, HERE="self.x += random.SystemRandom().random()")
    assert status == 1
    assert re.search(r"replay: loss is \S+ and then \S+ after epoch 1; the likely cause is a", told)


def test_what_matters_later_is_found_with_more_epochs(tmp_path: Path, search: Command) -> None:
    late = {"AFTER": "self.x = 5.0 if epoch == 5 else self.x"}
    assert _checked(tmp_path, search, **late)[0] == 0
    status, told = _checked(tmp_path, search, "--epochs", 6, **late)
    assert status == 1
    assert re.search(RESUME % 6, told)


@pytest.mark.parametrize(
    ("reading", "unread"),
    [
        ("", "kind, how"),
        ("self.run.choices.kind", "how"),
        ("match self.run.choices.how:\n                case Slow(steps=1): pass", "kind"),
        ("dataclasses.asdict(self.run.choices)", ""),
        ("vars(self.run.choices)", ""),
        ("copy.copy(self.run.choices)", ""),
        ("pickle.loads(pickle.dumps(self.run.choices))", ""),
    ],
)
def test_choices_that_the_training_never_reads_are_named(
    reading: str, unread: str, tmp_path: Path, search: Command
) -> None:
    imports = "import copy, dataclasses, pickle"
    status, told = _checked(tmp_path, search, "--epochs", 1, HERE=reading, IMPORTS=imports)
    assert status == 0
    named = re.findall(r"^The training never read (.*): what is not read", told, re.MULTILINE)
    assert named == ([unread] if unread else [])
