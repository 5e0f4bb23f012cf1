"""A trial goes on after its last finished epoch, as the same trial, whoever takes it over.

Without its checkpoint it starts again and comes to the same figures.
"""

import dataclasses
import hashlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.errors import UserError
from search.study.study import Study
from search.vision.classifier import load
from search.weights import find
from search.worker.replay import train_again
from search.worker.result import Outcome
from tests.support.commands import QUICK, Command, Run
from tests.support.databases import rows, states
from tests.support.process import Killed, Start, killed_at
from tests.support.s3 import S3, SECRET


@pytest.mark.parametrize("calls", [2, 8, 11, 23])
def test_a_killed_trial_goes_on_after_its_last_epoch(
    start: Start, calls: int, tmp_path: Path
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.run(whole.claim())
    killed, heir = start(), start()
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(calls))
    begun = len(killed.figures()[0])
    counts: list[int] = []
    heir.run(heir.claim(), counts.append)
    # Five batches of training and three of evaluation an epoch.
    assert sum(count == 1 for count in counts) == 4 - begun
    assert heir.figures()[0] == whole.figures()[0]
    assert heir.trials[0].value == whole.trials[0].value
    assert heir.trials[0].params == whole.trials[0].params


on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@on_sqlite
@pytest.mark.parametrize("calls", [12, 23])
def test_a_killed_trial_goes_on_from_its_checkpoint_in_a_bucket(
    start: Start, bucket: str, tmp_path: Path, calls: int
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.run(whole.claim())
    killed, heir = start(artifacts=bucket), start(artifacts=bucket)
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(calls))
    begun = len(killed.figures()[0])
    assert begun in (1, 2)
    counts: list[int] = []
    heir.run(heir.claim(), counts.append)
    assert sum(count == 1 for count in counts) == 4 - begun
    assert heir.figures()[0] == whole.figures()[0]


@on_sqlite
def test_in_a_copied_database_a_trial_goes_on_from_the_originals_checkpoint(
    start: Start, url: str, tmp_path: Path
) -> None:
    original = start()
    with pytest.raises(Killed):
        original.run(original.claim(), killed_at(12))
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    heir = start(url=f"sqlite:///{copy}")
    counts: list[int] = []
    heir.run(heir.claim(), counts.append)
    assert sum(count == 1 for count in counts) == 4 - len(original.figures()[0]) == 3
    counts.clear()
    original.run(original.claim(), counts.append)
    assert sum(count == 1 for count in counts) == 3
    assert heir.figures()[0] == original.figures()[0]


def test_without_its_checkpoint_a_trial_starts_again_with_the_same_figures(
    start: Start, tmp_path: Path
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.run(whole.claim())
    killed = start()
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(18))
    (checkpoint,) = (tmp_path / "files").glob("*-*-*-*")  # which weights are not
    checkpoint.write_bytes(b"damaged")
    heir = start()
    heir.run(heir.claim())
    assert heir.figures()[0] == whole.figures()[0]


def test_a_trial_killed_before_its_pruning_is_pruned_by_its_heir(
    start: Start, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = dataclasses.replace(study, variants={}, trials=10)
    process = start(without)

    def killed(self: object, *arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Outcome, "pruned", killed)
        with pytest.raises(Killed):
            process.work()
    (left,) = [trial for trial in process.trials if trial.state == TrialState.RUNNING]
    heir = start(without)
    claim = heir.claim()
    assert claim.number == left.number
    counts: list[int] = []
    heir.run(claim, counts.append)
    assert counts == []  # nothing was trained
    assert heir.trials[left.number].state == TrialState.PRUNED


@pytest.mark.parametrize("first", [True, False])
def test_a_trial_is_measured_as_it_was_begun_whoever_takes_it_over(
    start: Start, study: Study, first: bool
) -> None:
    study = dataclasses.replace(study, variants={})
    begun = start(study, measure_train=first)
    with pytest.raises(Killed):
        begun.run(begun.claim(), killed_at(14 if first else 12))  # in the second epoch
    other = start(study, measure_train=not first)
    other.run(other.claim())
    recorded = other.database.epochs(other.ref.key, 0)
    assert len(recorded) > 1
    assert ["train_loss" in epoch.metrics for epoch in recorded] == [first] * len(recorded)
    machine = other.machine
    (trial,) = other.trials
    assert train_again(study, trial, recorded, machine, print, lambda batches: None).is_same


@pytest.mark.slow
def test_a_signal_stops_within_a_batch_and_the_same_command_goes_on(
    search: Command, tmp_path: Path
) -> None:
    options = (*QUICK, "--epochs", 500)
    shown = ""
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with Run(tmp_path, "run", *options) as run:
            run.until("EPOCH")
            os.kill(run.pid, number)
            asked = time.monotonic()
            assert run.end() == status
            assert time.monotonic() - asked < 10
            assert f"Stopped by {number.name}; run the same command to resume" in run.output
            shown += run.output
        assert states(tmp_path)[0] == "RUNNING"
    (checkpoint,) = (tmp_path / "artifacts" / "files").iterdir()
    assert search("run", *options, "--timeout", 0.001).returncode == 0
    assert checkpoint.exists()  # for whoever goes on
    numbers = [int(n) for n in re.findall(r"\[0 base\] EPOCH: (\d+)", shown)]
    assert numbers == list(range(1, len(numbers) + 1))
    parts = re.split(r"^[\d:]+ \[0 base\] resumes after epoch (\d+)$", shown, flags=re.MULTILINE)
    assert len(parts) == 5
    for after, then in zip(parts[1::2], parts[2::2], strict=True):
        assert f"[0 base] EPOCH: {int(after) + 1} " in then


OPTIONS = (*QUICK, "--images", 96, "--epochs", 5, "--trials", 20,
           "--enqueue", "optimizer=SGD lr=0.02")  # fmt: skip
"""The last four trials are TPE's own suggestions."""
BEGUN = "On CPU"
"""What a search prints when its work begins."""
KILLS = 5


def _started(url: str, folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder, "run", *OPTIONS, "--storage", url)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], float]:
    """The rows of a search that nobody killed, and the seconds that its work took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    url = f"sqlite:///{folder / 'search.db'}"
    with _started(url, folder) as whole:
        whole.until(BEGUN)
        began = time.monotonic()
        assert whole.end() == 0
        seconds = time.monotonic() - began
    return rows(url), seconds


@pytest.mark.slow
@pytest.mark.xdist_group("test_resume")
def test_a_search_killed_at_random_moments_ends_as_an_undisturbed_one(
    url: str, undisturbed: tuple[list[dict[str, Any]], float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    killed = 0
    for number in range(KILLS):
        with _started(url, tmp_path / "killed") as run:
            # One of the kills comes before the work begins: while files and tables are made.
            if number > 0:
                run.until(BEGUN)
            with suppress(subprocess.TimeoutExpired):
                run.end(moments.uniform(0, seconds / KILLS if number else 1))
            run.kill()
            killed += run.end() == -signal.SIGKILL
    with _started(url, tmp_path / "killed") as last:
        assert last.end() == 0
    assert killed >= KILLS - 1
    assert len(expected) == 20
    assert {row["state"] for row in expected} == {"COMPLETE", "PRUNED"}
    for ours, theirs in zip(rows(url), expected, strict=True):
        assert ours == theirs
    (files,) = (tmp_path / "killed" / "artifacts").iterdir()
    there = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files.iterdir()
        if _is_of_weights(path.name)
    ]
    assert sorted(there) == sorted(row["weights"] for row in expected if row["weights"])
    assert len(there) >= 6


def _is_of_weights(name: str) -> bool:
    """Return whether it is not the checkpoint of a trial that waits, whose name has an epoch."""
    return name.count("-") == 2


def test_a_search_killed_in_a_bucket_ends_as_one_in_a_folder(
    search: Command, bucket: str, s3: S3, tmp_path: Path
) -> None:
    undisturbed = f"sqlite:///{tmp_path / 'undisturbed.db'}"
    options = (*QUICK, "--epochs", 4, "--trials", 9)
    assert search("run", *options, "--storage", undisturbed).returncode == 0
    (tmp_path / "artifacts").rename(tmp_path / "undisturbed")
    disturbed = [*options, "--artifacts", bucket]
    with Run(tmp_path, "run", *disturbed) as killed:
        killed.until("[1 question-1] EPOCH: 2")
        killed.kill()
        assert killed.end() == -signal.SIGKILL
    done = search("run", *disturbed)
    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    url = f"sqlite:///{tmp_path / 'search.db'}"
    expected = rows(undisturbed)
    assert rows(url) == expected
    assert not (tmp_path / "artifacts").exists()
    kept = {row["number"]: row["weights"] for row in expected if row["weights"]}
    files = list(filter(_is_of_weights, s3.keys(bucket.split("/")[2])))
    assert len(files) == len(kept) >= 6
    with pytest.raises(UserError, match=r"weights are not in s3://.*/of/elsewhere; name the fol"):
        find(url, "digits", "base", artifacts=bucket.replace("tests", "elsewhere"))
    for number, sha256 in kept.items():
        path = find(url, "digits", number, artifacts=bucket)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert load(find(url, "digits", "base", artifacts=bucket)).about.about.variant == "base"
