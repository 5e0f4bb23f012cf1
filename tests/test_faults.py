"""Faults made for real, at random moments: the finished database is that of an undisturbed run."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import Ordeal
from tests.support.databases import rows

OPTIONS = ("--study", "digits", "--images", "160", "--epochs", "5", "--trials", "22",
           "--threads", "1", "--enqueue", "optimizer=SGD lr=0.02")  # fmt: skip
KILLS = 5


def _command(url: str) -> list[str]:
    return [sys.executable, "-m", "search.run", *OPTIONS, "--storage", url]


def _start(url: str, folder: Path, *, wait: bool = True) -> "subprocess.Popen[bytes]":
    """Start the search in `folder`; with `wait`, return once its work begins."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(_command(url), cwd=folder, stdout=output, stderr=output)
    while wait and "On CPU" not in log.read_text():
        assert process.poll() in (None, 0), log.read_text()
        time.sleep(0.01)
        if process.poll() == 0:
            break
    return process


def test_a_search_killed_at_random_moments_ends_as_an_undisturbed_one(
    url: str, tmp_path: Path
) -> None:
    undisturbed = f"sqlite:///{tmp_path / 'undisturbed.db'}"
    whole = _start(undisturbed, tmp_path / "undisturbed")
    began = time.monotonic()
    assert whole.wait(timeout=250) == 0
    stretch = (time.monotonic() - began) / KILLS
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    killed = 0
    for number in range(KILLS):
        # One of the kills comes before the work begins: while files and tables are made.
        process = _start(url, tmp_path / "killed", wait=number != 0)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0, stretch if number else 3))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert _start(url, tmp_path / "killed").wait(timeout=250) == 0
    assert killed >= KILLS - 1
    expected = rows(undisturbed)
    assert len(expected) == 22
    assert {row["state"] for row in expected} == {"COMPLETE", "PRUNED"}
    for ours, theirs in zip(rows(url), expected, strict=True):
        assert ours == theirs
    (files,) = (tmp_path / "killed" / "artifacts").iterdir()
    there = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files.iterdir()]
    assert sorted(there) == sorted(row["weights"] for row in expected if row["weights"])
    assert len(there) >= 6


def test_many_workers_lose_nothing_by_any_fault(
    url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("server") if url.startswith("postgresql") else None
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    (tmp_path / "artifacts").mkdir()
    ordeal = Ordeal(url, tmp_path, seed=seed, kills=8, away_seconds=3, server=server)
    ordeal.search()
    ordeal.check()
    assert ordeal.counts["killed"] == 8
    assert ordeal.counts["trials trained again with the same figures"] >= 20
