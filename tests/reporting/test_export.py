"""What is exported of a study can be used elsewhere: as a table, as choices, as weights."""

import csv
import io
import json
import re
from contextlib import closing
from pathlib import Path
from statistics import fmean

import pytest

from search.analysis.rerun_metrics import read
from search.database.database import Database
from search.database.snapshot import Overview
from search.weights import load
from studies.cifar import Choices
from tests.support.commands import QUICK, Command

pytestmark = pytest.mark.slow
COMMAND = "search.__main__"


def _overview(folder: Path, name: str) -> Overview:
    with closing(Database(f"sqlite:///{folder / 'search.db'}")) as database:
        return Overview.of_study(database, name)


def test_trials_best_choices_and_weights_are_exported(search: Command, tmp_path: Path) -> None:
    assert search("run", *QUICK).returncode == 0
    overview = _overview(tmp_path, "digits")

    done = search(COMMAND, "export", "digits", "--out", "digits.csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "digits.csv").read_text())))
    assert [int(row["number"]) for row in rows] == [trial.number for trial in overview.trials]
    for row, trial in zip(rows, overview.trials, strict=True):
        assert (row["state"], int(row["epochs"])) == (trial.state.name, len(overview.of(trial)))
        assert float(row["lr"]) == trial.params["lr"]
        value = overview.value(trial)
        assert row["value"] == ("" if value is None else repr(value))

    found = json.loads(search(COMMAND, "export", "digits", "--format", "json").stdout)
    assert [one["params"] for one in found] == [trial.params for trial in overview.trials]
    assert [[epoch["test_accuracy"] for epoch in one["epochs"]] for one in found] == [
        [epoch.metrics["test_accuracy"] for epoch in overview.of(trial)]
        for trial in overview.trials
    ]

    best = overview.ranked[0]
    assert json.loads(search(COMMAND, "export", "digits", "--best").stdout) == best.params
    source = search(COMMAND, "export", "digits", "--best", "--as", "python").stdout
    assert eval(source, {"Choices": Choices}) == Choices(**best.params)
    line = search(COMMAND, "export", "digits", "--best", "--as", "enqueue").stdout.strip()
    done = search("run", *QUICK, "--enqueue", line)
    assert (done.returncode, done.stderr) == (0, "")
    assert _overview(tmp_path, "digits").trials[-1].params == best.params

    done = search(COMMAND, "export", "digits", "--weights", "best", "--out", "best.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(load(tmp_path / "best.safetensors").about.classes) == 10
    refused = search(COMMAND, "export", "digits", "--weights", "best")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--weights: it needs --out" in refused.stderr


def test_studies_are_listed_with_their_states(search: Command, tmp_path: Path) -> None:
    empty = search(COMMAND, "list", "--storage", "sqlite:///none.db")
    assert empty.returncode == 2
    assert search("run", *QUICK).returncode == 0
    for command in (("copy", "digits", "other"), ("pause", "other")):
        done = search(COMMAND, *command)
        assert (done.returncode, done.stderr) == (0, "")
    best = _overview(tmp_path, "digits").ranked[0]
    listed = search(COMMAND, "list").stdout
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in listed.splitlines()
        if line.startswith("│")
    ]
    n_epochs = str(_overview(tmp_path, "digits").n_recorded)
    rest = ["8 of 8", n_epochs, "test accuracy", f"{best.values[0]:.4f}", str(best.number)]
    assert cells == [["digits", "done", *rest], ["other", "paused", *rest]]
    assert "re-runs" not in listed
    assert "Best over" not in search(COMMAND, "status", "digits").stdout
    again = search("reproduce", *QUICK[:2], "--top", 2, "--repeats", 2, "--out", "runs.csv")
    assert again.returncode == 0
    means = {
        int(trial.removeprefix("trial ")): fmean(
            run[-1].metrics["test_accuracy"] for run in runs.values()
        )
        for trial, runs in read(tmp_path / "runs.csv").items()
    }
    winner = max(means, key=means.__getitem__)
    value = _overview(tmp_path, "digits").find(str(winner)).values[0]
    shown = [f"{value:.4f}", str(winner), f"{means[winner]:.4f} (2 fresh seeds)"]
    line = next(line for line in search(COMMAND, "list").stdout.splitlines() if "digits " in line)
    assert [cell.strip() for cell in line.split("│")[-4:-1]] == shown
    told = " ".join(search(COMMAND, "status", "digits").stdout.split())
    assert re.search(rf"best {value:.4f} \(trial {winner}[^)]*\), {means[winner]:.4f} ±", told)
    assert f"Best over 2 fresh seeds: trial {winner}" in told
    assert f", test accuracy {means[winner]:.4f} ±" in told
    missing = search(COMMAND, "status", "third")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == (
        "python -m search: error: study third: sqlite:///search.db has no such study; it has "
        "digits, digits-rerun, other\n"
    )
    assert search(COMMAND, "delete", "other").returncode == 2
    assert search(COMMAND, "delete", "other", "--yes").returncode == 0
    assert "other" not in search(COMMAND, "list").stdout


ODD = """
from dataclasses import dataclass
from typing import Annotated
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from search.study import Study

@dataclass(frozen=True)
class Choices:
    value: Annotated[float, FloatDistribution(0.1, 1.0)]
    score: Annotated[float, FloatDistribution(0.1, 1.0)]

class Training:
    def __init__(self, run):
        self.run = run
        if run.choices.value < 0.4:
            raise ValueError(chr(0xD800))

    def fit(self, after=0):
        for epoch in range(after, self.run.epochs):
            yield {"score": self.run.choices.value * %s}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

study = Study(name="odd", choices=Choices, train=Training, metric="score", trials=5, epochs=2,
              sampler=RandomSampler, seed=3)
"""
"""Choices that are called like columns, metrics of unusual size, and a reason that is no text."""


@pytest.mark.parametrize("size", ["1e-6", "0 + 1.7976931348623157e308"])
def test_odd_names_metrics_and_reasons_are_exported_and_reported(
    size: str, search: Command, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(ODD % size)
    ran = search("run", "--study", "odd.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    overview = _overview(tmp_path, "odd")
    assert any(trial.state.name == "FAIL" for trial in overview.trials)
    best = overview.ranked[0]
    assert "choice score" in ran.stdout
    shown = re.escape(f"{best.values[0]:.4g}")
    assert re.search(rf"^│ {best.number} +│ +{shown} │ ", ran.stdout, re.MULTILINE)
    exported = search(COMMAND, "export", "odd")
    assert (exported.returncode, exported.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(exported.stdout)))
    for row, trial in zip(rows, overview.trials, strict=True):
        value = overview.value(trial)
        assert row["value"] == ("" if value is None else repr(value))
        assert float(row["params.value"]) == trial.params["value"]
        assert float(row["score"]) == trial.params["score"]
    for form in ("html", "markdown"):
        done = search("report", "--study", "odd.py", "--format", form)
        assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "report-odd.html").read_text()
    assert "\\ud800" in page
    assert f"{best.values[0]!r}" in page
