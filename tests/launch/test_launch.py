"""Many workers of one search: what becomes of the study when they are stopped and killed."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.database.database import Database
from search.database.snapshot import Overview
from search.launch.processes import Process
from search.launch.supervisor import End, Fate
from search.worker.config import WorkerConfig
from tests.support.commands import Command, Run, until
from tests.support.databases import PASSWORD, leased_pids

pytestmark = pytest.mark.slow

QUICK = ("--study", "digits", "--images", "160", "--threads", "1", "--workers", "3")
ENDLESS = (*QUICK, "--epochs", "500", "--trials", "30")


def _trials(url: str) -> list[FrozenTrial]:
    database = Database(url)
    trials = database.optuna.get_all_trials(1)
    database.close()
    return trials


def _descendants(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def test_a_temporary_folder_with_too_long_a_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    command = [sys.executable, "-m", "search.run", *QUICK]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("python -m search.run: error: --workers: AF_UNIX path too long")
    assert str(long) in line
    assert not (tmp_path / "search.db").exists()


def test_a_worker_that_is_asked_to_stop_while_it_starts_does_so(tmp_path: Path) -> None:
    config = WorkerConfig(
        study="digits",
        changes={"images": 160, "epochs": 500},
        storage=f"sqlite:///{tmp_path / 'search.db'}",
        data=tmp_path,
        artifacts=str(tmp_path / "artifacts"),
        device="cpu",
        threads=1,
    )
    worker = Process(config)
    worker.ask_to_stop()
    until(lambda: worker.end() is not None)
    assert worker.end() == End(fate=Fate.DONE, why="was stopped by SIGTERM")


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGHUP", "SIGHUP"], ["SIGTERM"]])
def test_a_signal_to_all_stops_all_workers_within_a_batch(
    tmp_path: Path, signals: list[str]
) -> None:
    """SIGHUP comes twice: from the shell, and from its terminal."""
    with Run(tmp_path, "run", *ENDLESS) as run:
        until(lambda: len(leased_pids(tmp_path)) == 3)
        run.until("EPOCH")
        pids = leased_pids(tmp_path)
        for name in signals:
            os.killpg(run.pid, signal.Signals[name])
        asked = time.monotonic()
        assert run.end() == 128 + signal.Signals[signals[0]]
        assert time.monotonic() - asked < 10
        rest = run.output + run.errors
    assert f"Stopped by {signals[0]}; run the same command to resume." in rest
    assert not re.search("^worker", rest, re.MULTILINE)
    assert not any(map(psutil.pid_exists, pids))
    assert leased_pids(tmp_path) == []
    states = [trial.state for trial in _trials(f"sqlite:///{tmp_path / 'search.db'}")]
    assert states.count(TrialState.RUNNING) >= 1
    assert TrialState.FAIL not in states


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with Run(tmp_path, "run", *ENDLESS) as run:
        until(lambda: len(leased_pids(tmp_path)) == 3)
        everyone = _descendants(run.pid)
        run.kill()
        until(lambda: not any(one.is_running() for one in everyone), seconds=20)
    assert leased_pids(tmp_path) == []  # they left, and were not killed


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with Run(tmp_path, "run", *QUICK, "--epochs", "8", "--trials", "7") as run:
        until(lambda: len(leased_pids(tmp_path)) == 3)
        run.until("EPOCH")
        os.kill(leased_pids(tmp_path)[0], signal.SIGKILL)
        assert run.end() == 0
        rest = run.output + run.errors
    assert len(re.findall(r"^worker [123] was ended by SIGKILL, .*; another takes its place$",
                          rest, re.MULTILINE)) == 1  # fmt: skip
    assert "Trials: 7 of 7 finished" in rest


def test_workers_that_somebody_stops_are_not_replaced(tmp_path: Path) -> None:
    with Run(tmp_path, "run", *ENDLESS) as run:
        until(lambda: len(leased_pids(tmp_path)) == 3)
        for pid in leased_pids(tmp_path):
            os.kill(pid, signal.SIGTERM)
        assert run.end() == 1
        rest = run.output + run.errors
    told = re.findall(r"^worker (\d) was stopped by SIGTERM; no other takes its place$",
                      rest, re.MULTILINE)  # fmt: skip
    assert sorted(told) == ["1", "2", "3"]
    assert leased_pids(tmp_path) == []


def test_a_search_whose_workers_always_die_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import multiprocessing, os, signal\n"
        "from dataclasses import replace\n"
        "from optuna.samplers import RandomSampler\n"
        "from studies.digits import study\n"
        "def deadly(seed):\n"
        "    if multiprocessing.current_process().daemon:  # a worker\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return RandomSampler(seed)\n"
        "study = replace(study, name='mine', variants={}, sampler=deadly)\n"
    )
    options = ("--study", "mine.py", "--workers", "2", "--threads", "1")
    with Run(tmp_path, "run", *options) as run:
        assert run.end() == 1
        errors = run.errors
    assert errors == (
        "search.run: workers have died 6 times without an epoch in between; the last was ended by "
        "SIGKILL, as the kernel does where memory runs out\n"
    )


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_no_password_is_in_a_command_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_STORAGE", url)
    with Run(tmp_path, "run", *ENDLESS) as run:
        until(lambda: len(leased_pids(url)) == 3)
        lines = [one.cmdline() for one in [*_descendants(run.pid), psutil.Process(run.pid)]]
    assert len(lines) >= 4
    assert PASSWORD in url
    assert PASSWORD not in str(lines)


def test_several_workers_confirm_the_best_trials(tmp_path: Path, search: Command) -> None:
    quick = ("--study", "digits", "--images", 160, "--epochs", 1, "--no-variants")
    done = search("run", *quick, "--trials", 4, "--workers", 2, "--confirm")
    assert done.returncode == 0, done.stderr
    url = f"sqlite:///{tmp_path / 'search.db'}"
    with closing(Database(url)) as database:
        reruns = Overview.of_study(database, "digits-rerun").trials
    assert {trial.state for trial in reruns} == {TrialState.COMPLETE}
    assert len(reruns) == 3 * 3 + 5
    assert "Best over 5 unused seeds: trial " in done.stdout
