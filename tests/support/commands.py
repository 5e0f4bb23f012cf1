"""The service's commands, each run to its end in a process of its own.

The process is forked from one that has imported PyTorch and Optuna, as
`search.launch.processes` starts its workers: an import that takes longer than most of the commands.
Tests that are about a command's start, its terminal or its signals start Python themselves.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from search.launch.processes import warm_up
from search.signals import STOPPING

TIMEOUT_SECONDS = 250
QUICK = ("--study", "digits", "--images", 160, "--epochs", 3, "--threads", 1, "--trials", 8)
"""Options of a search that takes seconds."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture `search`: `run_command` in a folder of the test's own."""


_CONTEXT = multiprocessing.get_context("forkserver")


class Run:
    """A command `python -m search.NAME OPTIONS` in `folder`, or a module named in full; leaving the
    context kills what still runs of it."""

    def __init__(self, folder: Path, name: str, *options: object) -> None:
        warm_up()
        self.command = [name if "." in name else f"search.{name}", *map(str, options)]
        self._told = tempfile.TemporaryDirectory()
        self._output, self._errors = (Path(self._told.name) / name for name in ("output", "errors"))
        self._process = _CONTEXT.Process(
            target=_be, args=(self.command, folder, dict(os.environ), self._output, self._errors)
        )
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._process.join()
        self._told.cleanup()

    @property
    def pid(self) -> int:
        """Of its process, and of the group of processes that it and its workers are."""
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    @property
    def errors(self) -> str:
        return self._errors.read_text() if self._errors.exists() else ""

    def until(self, text: str) -> None:
        """Wait until the command has printed `text`, or has ended."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while text not in self.output and self._process.is_alive():
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.command, TIMEOUT_SECONDS)
            time.sleep(0.01)

    def end(self, seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait for the end; return the exit status, or a signal's number with a minus sign.

        Raises:
            TimeoutExpired: it still runs.
        """
        self._process.join(seconds)
        if (status := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self.command, seconds)
        return status


def fresh_environment() -> dict[str, str]:
    """Return the environment in which a Python that is started anew, in any folder, imports this
    repository's `search`, `studies` and `tests`."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def run_command(folder: Path, name: str, *options: object) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    with Run(folder, name, *options) as run:
        return subprocess.CompletedProcess(run.command, run.end(), run.output, run.errors)


def _be(
    command: list[str], folder: Path, environment: Mapping[str, str], output: Path, errors: Path
) -> None:
    os.setsid()  # a group of its own, as a shell gives to each command
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # which the server blocks
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # what the server found with its own environment
    for path, descriptor in ((output, 1), (errors, 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
