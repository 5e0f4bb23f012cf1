"""The service's commands, each run to its end in a process of its own.

The process is forked from one that has imported PyTorch and Optuna, as
`search.launch.processes` starts its workers: an import that takes longer than most of the commands.
Tests that are about a command's start, its terminal or its signals start Python themselves.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from search.launch.processes import warm_up

TIMEOUT_SECONDS = 250

Command = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture `search`: `run_command` in a folder of the test's own."""


_CONTEXT = multiprocessing.get_context("forkserver")


def run_command(folder: Path, name: str, *options: object) -> "subprocess.CompletedProcess[str]":
    """Run `python -m search.NAME OPTIONS` in `folder`, to its end; or a module named in full."""
    warm_up()
    command = [name if "." in name else f"search.{name}", *map(str, options)]
    with tempfile.TemporaryDirectory() as told:
        output, errors = Path(told) / "output", Path(told) / "errors"
        process = _CONTEXT.Process(
            target=_be, args=(command, folder, dict(os.environ), output, errors)
        )
        process.start()
        process.join(TIMEOUT_SECONDS)
        if (status := process.exitcode) is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(command, status, output.read_text(), errors.read_text())


def _be(
    command: list[str], folder: Path, environment: Mapping[str, str], output: Path, errors: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # what the server found with its own environment
    for path, descriptor in ((output, 1), (errors, 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
