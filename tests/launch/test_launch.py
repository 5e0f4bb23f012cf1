"""Many workers of one search: what becomes of the study when they are stopped and killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from search.database.database import Database
from search.errors import UserError
from search.launch.supervisor import DEATHS, End, Fate, KeepsDying, Place, deal, supervise
from search.worker.stop import Stop
from tests.support.databases import PASSWORD, leased_pids

QUICK = ("--study", "digits", "--images", "160", "--threads", "1", "--workers", "3")
ENDLESS = (*QUICK, "--epochs", "500", "--trials", "30")


def _trials(url: str) -> list[FrozenTrial]:
    database = Database(url)
    trials = database.optuna.get_all_trials(1)
    database.close()
    return trials


@contextmanager
def _started(folder: Path, *options: str) -> "Iterator[subprocess.Popen[str]]":
    """Run the search in a process group of its own, as a shell does; end with all of it gone."""
    command = [sys.executable, "-m", "search.run", *options]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                for one in _descendants(process.pid):
                    one.kill()
                process.kill()


def _descendants(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout.readline, "")


def test_each_worker_has_one_thread_and_auto_a_worker_for_each_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.launch.supervisor.usable_cores", lambda: 6)
    assert deal("cpu", 2, threads=None) == [Place(device="cpu", threads=1)] * 2
    assert deal("cpu", 8, threads=None) == [Place(device="cpu", threads=1)] * 8
    assert deal("cpu", 2, threads=5) == [Place(device="cpu", threads=5)] * 2
    assert deal("cpu", None, threads=None) == [Place(device="cpu", threads=1)] * 6
    assert deal("cpu", None, threads=4) == [Place(device="cpu", threads=4)]
    with pytest.raises(
        UserError, match=r"--threads 7: this process may use 6 CPU cores, .* 6 or l"
    ):
        deal("cpu", 1, threads=7)


def test_cuda_devices_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: this machine has no such device"):
        deal("cuda", 2, threads=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="--device cuda:2: this machine has 2, counted from cuda:0"):
        deal("cuda:2", 1, threads=None)
    assert [place.device for place in deal("auto", 3, threads=None)] == [
        "cuda:0", "cuda:1", "cuda:0",
    ]  # fmt: skip
    assert [place.device for place in deal("cuda:1", 2, threads=None)] == ["cuda:1", "cuda:1"]
    assert [place.device for place in deal("auto", None, threads=None)] == ["cuda:0", "cuda:1"]
    assert [place.device for place in deal("cuda:1", None, threads=None)] == ["cuda:1"]


class Canned:
    """A worker that says and does what it was made with."""

    def __init__(self, *says: str, end: End | None) -> None:
        self.says, self.ends, self.asked = list(says), end, False

    def told(self) -> list[str]:
        says, self.says = self.says, []
        return says

    def end(self) -> End | None:
        return End(fate=Fate.DONE) if self.asked else self.ends

    def ask_to_stop(self) -> None:
        self.asked = True


DONE, FAILED = End(fate=Fate.DONE), End(fate=Fate.FAILED)
KILLED = End(fate=Fate.DIED, why="was ended by SIGKILL")


def test_one_that_dies_is_replaced_and_one_that_fails_is_not() -> None:
    first = iter([Canned("a", end=KILLED), Canned("b", end=DONE)])
    second = iter([Canned("c", end=FAILED)])
    said: list[str] = []
    failed = supervise(
        [lambda: next(first), lambda: next(second)], Stop(), progress=lambda: 0, say=said.append
    )
    assert failed == 1
    assert said == [
        "worker 1: a",
        "worker 1 was ended by SIGKILL; another takes its place",
        "worker 2: c",
        "worker 1: b",
    ]


def test_workers_that_only_die_end_the_search_and_those_that_get_on_do_not() -> None:
    endless = Canned(end=None)
    died: list[Canned] = []

    def dying() -> Canned:
        died.append(Canned(end=KILLED))
        return died[-1]

    with pytest.raises(KeepsDying, match=f"{2 * DEATHS} times .* SIGKILL"):
        supervise([dying, lambda: endless], Stop(), progress=lambda: 7, say=print)
    assert (len(died), endless.asked) == (2 * DEATHS, True)

    epochs = iter(range(1, 100))
    last = iter([*[KILLED] * 9, DONE])
    assert supervise(
        [lambda: Canned(end=next(last))], Stop(), progress=lambda: next(epochs), say=print
    ) == 0  # fmt: skip


def test_a_temporary_folder_with_too_long_a_path_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with _started(tmp_path, *QUICK) as process:
        (line,) = _lines(process)
        assert process.wait(timeout=120) == 2
    assert line.startswith("python -m search.run: error: --workers: AF_UNIX path too long")
    assert str(long) in line
    assert not (tmp_path / "search.db").exists()


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGHUP", "SIGHUP"], ["SIGTERM"]])
def test_what_a_terminal_or_a_service_manager_sends_to_all_stops_all_workers_within_a_batch(
    tmp_path: Path, signals: list[str]
) -> None:
    """SIGHUP comes twice: from the shell, and from its terminal."""
    with _started(tmp_path, *ENDLESS) as process:
        _until(lambda: len(leased_pids(tmp_path)) == 3)
        for line in _lines(process):
            if "EPOCH" in line:
                break
        pids = leased_pids(tmp_path)
        for name in signals:
            os.killpg(process.pid, signal.Signals[name])
        asked = time.monotonic()
        rest = "".join(_lines(process))
        assert process.wait(timeout=120) == 128 + signal.Signals[signals[0]]
        assert time.monotonic() - asked < 10
    assert f"Stopped by {signals[0]}; the same command resumes the study." in rest
    assert "worker" not in rest
    assert not any(map(psutil.pid_exists, pids))
    assert leased_pids(tmp_path) == []
    states = [trial.state for trial in _trials(f"sqlite:///{tmp_path / 'search.db'}")]
    assert states.count(TrialState.RUNNING) >= 1
    assert TrialState.FAIL not in states


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with _started(tmp_path, *ENDLESS) as process:
        _until(lambda: len(leased_pids(tmp_path)) == 3)
        everyone = _descendants(process.pid)
        process.kill()
        _until(lambda: not any(one.is_running() for one in everyone), seconds=20)
    assert leased_pids(tmp_path) == []  # they left, and were not killed


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with _started(tmp_path, *QUICK, "--epochs", "20", "--trials", "8") as process:
        _until(lambda: len(leased_pids(tmp_path)) == 3)
        for line in _lines(process):
            if "EPOCH" in line:
                break
        os.kill(leased_pids(tmp_path)[0], signal.SIGKILL)
        rest = "".join(_lines(process))
        assert process.wait(timeout=120) == 0
    assert len(re.findall(r"^worker [123] was ended by SIGKILL, .*; another takes its place$",
                          rest, re.MULTILINE)) == 1  # fmt: skip
    assert "Trials: 8 of 8 finished" in rest


def test_workers_that_somebody_stops_are_told_and_not_replaced(tmp_path: Path) -> None:
    with _started(tmp_path, *ENDLESS) as process:
        _until(lambda: len(leased_pids(tmp_path)) == 3)
        for pid in leased_pids(tmp_path):
            os.kill(pid, signal.SIGTERM)
        rest = "".join(_lines(process))
        assert process.wait(timeout=120) == 1
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
        "    if multiprocessing.parent_process() is not None:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return RandomSampler(seed)\n"
        "study = replace(study, name='mine', variants={}, sampler=deadly)\n"
    )
    options = ("--study", "mine.py", "--workers", "2", "--threads", "1")
    with _started(tmp_path, *options) as process:
        *_, line = _lines(process)
        assert process.wait(timeout=120) == 1
    assert line == (
        "search.run: workers have died 6 times without an epoch in between; the last was ended by "
        "SIGKILL, as the kernel does where memory runs out\n"
    )


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_no_password_is_in_a_command_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_STORAGE", url)
    with _started(tmp_path, *ENDLESS) as process:
        _until(lambda: len(leased_pids(url)) == 3)
        lines = [one.cmdline() for one in [*_descendants(process.pid), psutil.Process(process.pid)]]
    assert len(lines) >= 4
    assert PASSWORD in url
    assert PASSWORD not in str(lines)
