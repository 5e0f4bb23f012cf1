"""A search whose files are in a bucket: nothing is lost that a folder would not lose."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.database.studies import files_of
from search.errors import UserError
from search.vision.classifier import load
from search.weights import find
from tests.support.commands import Command
from tests.support.databases import rows
from tests.support.process import Killed, Start, killed_at
from tests.support.s3 import S3, SECRET

OPTIONS = ("--study", "digits", "--images", "160", "--epochs", "4", "--trials", "9",
           "--threads", "1")  # fmt: skip
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


def test_a_search_that_is_killed_ends_as_an_undisturbed_one_in_a_folder(
    search: Command, bucket: str, s3: S3, tmp_path: Path
) -> None:
    undisturbed = f"sqlite:///{tmp_path / 'undisturbed.db'}"
    assert search("run", *OPTIONS, "--storage", undisturbed).returncode == 0
    (tmp_path / "artifacts").rename(tmp_path / "undisturbed")
    disturbed = [*OPTIONS, "--artifacts", bucket]
    with subprocess.Popen(
        [sys.executable, "-m", "search.run", *disturbed],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        next(line for line in process.stdout if "[1 question-1] EPOCH: 2" in line)
        process.kill()
    done = search("run", *disturbed)
    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    url = f"sqlite:///{tmp_path / 'search.db'}"
    expected = rows(undisturbed)
    assert rows(url) == expected
    assert not (tmp_path / "artifacts").exists()
    kept = {row["number"]: row["weights"] for row in expected if row["weights"]}
    files = s3.keys(bucket.split("/")[2])
    assert len(files) == len(kept) >= 6
    with pytest.raises(UserError, match=r"weights are not in s3://.*/of/elsewhere; give `artifac"):
        find(url, "digits", "base", artifacts=bucket.replace("tests", "elsewhere"))
    for number, sha256 in kept.items():
        path = find(url, "digits", number, artifacts=bucket)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert load(find(url, "digits", "base", artifacts=bucket)).about.variant == "base"


def test_a_place_that_cannot_be_used_gets_one_line_and_nothing_is_written(
    search: Command, bucket: str, tmp_path: Path
) -> None:
    for name in ("run", "reproduce"):
        done = search(name, "--study", "digits", "--artifacts", "s3://no-such-bucket")
        assert done.returncode == 2
        assert done.stderr.startswith(f"python -m search.{name}: error: --artifacts s3://no-such-")
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


@on_sqlite
@pytest.mark.parametrize("calls", [12, 23])
def test_a_taken_over_trial_goes_on_from_its_checkpoint_in_the_bucket(
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
def test_a_bucket_that_goes_away_costs_no_figure(
    start: Start, bucket: str, s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.work()
    process = start(artifacts=bucket)
    epochs = 0

    def disturb(batches: int) -> None:
        nonlocal epochs
        epochs += batches == 1
        if batches == 1 and epochs == 2:
            s3.stop()
        if batches == 1 and epochs == 4:
            s3.start()

    process.run(process.claim(), disturb)
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("trial 0: no checkpoint written: Could not conn" in said for said in warnings) == 2
    process.work()
    process.kept.clean()
    assert process.figures() == whole.figures()
    states = [trial.state for trial in process.trials]
    assert states == [trial.state for trial in whole.trials]
    complete = [number for number, state in enumerate(states) if state == TrialState.COMPLETE]
    key = files_of(process.database, process.ref)
    files = [name.rpartition("/")[2] for name in s3.keys(bucket.split("/")[2])]
    there = [name.split("-") for name in files]
    assert sorted(there) == sorted([key, str(number), sha16] for *_, number, sha16 in there)
    assert {int(number) for _, number, _ in there} <= set(complete)
    assert len(there) >= 2


@on_sqlite
def test_an_epoch_costs_two_requests_and_lists_nothing(start: Start, bucket: str) -> None:
    process = start(artifacts=bucket)
    asked: list[Counter[str]] = [Counter()]

    def count(model: Any, **rest: object) -> None:
        asked[-1][model.name] += 1

    def next_epoch(batches: int) -> None:
        if batches == 1:
            asked.append(Counter())

    client = process.kept.store._artifacts._client  # type: ignore[attr-defined]  # noqa: SLF001
    events = client.meta.events
    events.register("before-call.s3", count)
    process.run(process.claim(), next_epoch)
    first, *between, last = asked[1:]
    assert first == {"PutObject": 1}
    assert between == [{"PutObject": 1, "DeleteObject": 1}] * 2
    # The weights are written, and seen to be there.
    assert last == {"PutObject": 1, "DeleteObject": 1, "GetObject": 1}
