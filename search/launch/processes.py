"""Workers as processes of this machine.

They are forked from a server process that has imported the libraries, so that each starts quickly
and shares its memory. The server never computes anything.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from types import FrameType

from search import output
from search.errors import UserError
from search.files import temporary_folder
from search.launch.supervisor import End, Fate
from search.signals import STOPPING
from search.worker.config import WorkerConfig
from search.worker.serve import serve
from search.worker.stop import Stop

PRELOAD = (serve.__module__, "alembic.command")
"""Modules that the server imports; the last would be imported by a worker's database."""
TORCH = ("torch", "search.vision.session", "torch._dynamo")
"""Further ones for a study that uses PyTorch; the last would be imported by a worker's first
optimizer, which takes a second."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Keeps Python from importing modules of the current folder first: a user's random.py would hide
that of the library."""

_CONTEXT = multiprocessing.get_context("forkserver")


def warm_up(*, uses_torch: bool = True) -> None:
    """Start the server without waiting for its imports; otherwise the first worker starts it.

    Raises:
        UserError: there is no temporary folder, or its path is too long for a socket.
    """
    folder = temporary_folder()
    _CONTEXT.set_forkserver_preload([*PRELOAD, *(TORCH if uses_torch else ())])
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        # A terminal sends signals to all its processes, but only this one is to pass them on. The
        # server inherits the mask, and so does each worker until it has installed handlers.
        with _blocked():
            resource_tracker.ensure_running()  # which unblocks some signals in this process
        with _blocked():
            forkserver.ensure_running()
    except OSError as error:
        raise UserError(
            f"--workers: {error} in the temporary folder {folder}; name another, "
            "as by `export TMPDIR=/tmp`"
        ) from error
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


class Process:
    """A worker in another process, which outlives this one by at most a batch."""

    def __init__(self, config: WorkerConfig) -> None:
        warm_up(uses_torch="torch" in sys.modules)
        self._lines, lines = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_serve, args=(config, lines), daemon=True)
        self._process.start()
        lines.close()  # so that the end of the worker's side is noticed

    def told(self) -> list[str]:
        lines = []
        try:
            while self._lines.poll():
                lines.append(str(self._lines.recv()))
        except (EOFError, OSError):
            pass
        return lines

    def end(self) -> End | None:
        status = self._process.exitcode
        if status is None:
            return None
        if status == 128 + signal.SIGTERM:
            return End(fate=Fate.DONE, why="was stopped by SIGTERM")
        if status in (0, 1):
            return End(fate=Fate.FAILED if status else Fate.DONE)
        return End(fate=Fate.DIED, why=_died_of(status))

    def ask_to_stop(self) -> None:
        self._process.terminate()


def _died_of(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    hint = ", as the kernel does where memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


@contextmanager
def _blocked() -> Iterator[None]:
    """Block the signals that ask to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(config: WorkerConfig, lines: "Connection[str, str]") -> None:
    """Run a worker; exit with status 1 after an error, and with 143 if SIGTERM stopped it."""
    stop = Stop()

    def terminate(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        stop.ask()

    # The parent passes on signals of the terminal as SIGTERM. One that has already come is pending,
    # and would be dropped if it were ignored even for a moment.
    for number in STOPPING:
        signal.signal(number, terminate if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    with output.kept():
        is_well = serve(config, stop, partial(_send, lines))
    if not is_well:
        sys.exit(1)
    sys.exit(stop.exit_status)


def _send(lines: "Connection[str, str]", line: str) -> None:
    with suppress(OSError):  # the parent is gone
        lines.send(line)


def _watch_parent(stop: Stop) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker's process"
    parent.join()
    stop.ask()
