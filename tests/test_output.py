"""Standard output that is closed, full, hung up, stopped, or cannot encode."""

import errno
import fcntl
import io
import os
import pty
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from search import output
from search.output import PLAINLY, Channel
from tests.support.commands import until

QUICK = [
    *("--study", "digits", "--images", "100", "--epochs", "1", "--no-variants", "--threads", "1"),
    *("--trials", "1"),
]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_writes_arrive_in_order(pipe: tuple[int, int]) -> None:
    channel = Channel(pipe[1])
    for number in range(100):
        channel.write(f"{number}\n".encode())
    assert channel.wait(5)
    assert os.read(pipe[0], 10_000) == "".join(f"{n}\n" for n in range(100)).encode()
    assert channel.error is None


def test_a_slow_reader_is_waited_for_once_and_gets_everything(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(pipe[1])
    size = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    monkeypatch.setattr(output, "PATIENCE_SECONDS", 0.01)
    channel.write(b"x" * (size + 1))
    assert channel.is_stuck
    monkeypatch.setattr(output, "PATIENCE_SECONDS", None)  # for ever
    channel.write(b"y" * size)
    assert channel.is_stuck
    got = b""
    while len(got) < 2 * size + 1:
        got += os.read(pipe[0], size)
    assert got == b"x" * (size + 1) + b"y" * size
    assert channel.wait(5)
    assert not channel.is_stuck


def test_a_non_blocking_descriptor_gets_everything(
    pipe: tuple[int, int],
) -> None:
    os.set_blocking(pipe[1], False)
    size = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    channel = Channel(pipe[1])
    channel.write(b"x" * 2 * size)
    got = 0
    while got < 2 * size:
        got += len(os.read(pipe[0], size))
    assert channel.wait(5)
    assert channel.error is None


def test_output_that_cannot_be_written_is_dropped(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    gone = Channel(pipe[1])
    with open("/dev/full", "wb") as file:  # noqa: PTH123
        full = Channel(file.fileno())
        for channel in (gone, full):
            channel.write(b"x")
            channel.write(b"y")
            assert channel.wait(5)
    assert [one.error and one.error.errno for one in (gone, full)] == [errno.EPIPE, errno.ENOSPC]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "0.7 ± 0.1 … 猫 ä \\udcff"),
        ("latin-1", "0.7 ± 0.1 ... \\u732b ä \\udcff"),
        ("ascii", "0.7 +/- 0.1 ... \\u732b \\xe4 \\udcff"),
        ("cp1252", "0.7 ± 0.1 … \\u732b ä \\udcff"),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(encoding: str, expected: str) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding, PLAINLY)
    stream.write("0.7 ± 0.1 … 猫 ä \udcff")
    stream.flush()
    assert buffer.getvalue().decode(encoding) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("> /dev/full", 1, b"error: standard output: No space left on device\n"),
        (">&-", 1, b"error: standard output: Bad file descriptor\n"),
        ("> /dev/full 2>&-", 1, b""),
        (">&0", 1, b""),  # a pipe whose reader is gone
    ],
)
def test_help_that_cannot_be_printed_is_a_failure(
    tmp_path: Path, pipe: tuple[int, int], shell: str, status: int, said: bytes
) -> None:
    os.close(pipe[0])
    done = _run(["search.report", "--help"], tmp_path, shell, stdin=pipe[1])
    assert done.returncode == status
    assert done.stderr.removeprefix(b"python -m search.report: ") == said


@pytest.mark.slow
def test_a_report_is_utf_8_on_any_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from studies.digits import study\n"
        "study = replace(study, name='mäßig 猫', variants={'böse ±': study.variants['base']})\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    monkeypatch.setenv("LC_ALL", "C")
    quick = ["--study", "mine.py", "--images", "100", "--epochs", "1", "--trials", "1"]
    done = _run(["search.run", *quick], tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    assert shown.startswith("Study m\\xe4\\xdfig \\u732b in sqlite:///search.db: 0 of 1")
    assert "[0 b\\xf6se +/-] COMPLETE" in shown
    assert "+----" in shown
    report = ["search.report", "--study", "mine.py", "--format", "markdown", "--out", "-"]
    done = _run(report, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "# Study mäßig 猫" in done.stdout.decode()
    assert "böse ±" in done.stdout.decode()
    full = _run(report, tmp_path, "> /dev/full")
    assert (full.returncode, full.stdout) == (1, b"")
    assert full.stderr.endswith(b"error: standard output: No space left on device\n")
    (tmp_path / "link.md").symlink_to("/dev/stdout")
    assert _run([*report[:-1], "link.md"], tmp_path).stdout == done.stdout  # and nothing else


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["> /dev/full 2>&1", "<&- >&- 2>&-"])
def test_a_search_that_nobody_can_listen_to_goes_on_to_its_end(tmp_path: Path, shell: str) -> None:
    done = _run(["search.run", *QUICK], tmp_path, shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert _states(tmp_path) == ["COMPLETE"]


@pytest.mark.slow
def test_a_search_does_not_wait_for_a_terminal_that_is_stopped(tmp_path: Path) -> None:
    """As Ctrl-S stops it; and the terminal has its cursor and the summary in the end."""
    with _on_terminal(["search.run", *QUICK[:-1], "3"], tmp_path) as (process, main):
        os.write(main, b"\x13")  # Ctrl-S
        until(lambda: _states(tmp_path) == ["COMPLETE"] * 3)
        assert process.poll() is None
        os.write(main, b"\x11")  # Ctrl-Q
        shown = _rest(main)
        assert process.wait(30) == 0
    assert b"3 of 3 finished" in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")


@pytest.mark.slow
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_search_whose_terminal_closes_or_is_stopped_ends_at_once(
    tmp_path: Path, is_closed: bool
) -> None:
    endless = ["search.run", *QUICK, "--epochs", "500"]
    with _on_terminal(endless, tmp_path) as (process, main):
        until(lambda: _states(tmp_path) == ["RUNNING"])
        if is_closed:
            os.close(main)  # which sends SIGHUP to its processes
        else:
            os.write(main, b"\x13")
            time.sleep(1)  # for the view to find it stopped
            process.terminate()
        assert process.wait(30) == (129 if is_closed else 143)
    assert _states(tmp_path) == ["RUNNING"]
    with closing(sqlite3.connect(tmp_path / "search.db")) as database:
        assert database.execute("SELECT * FROM search_leases").fetchall() == []


def _run(
    options: list[str], folder: Path, shell: str = "", stdin: int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command with its streams as the shell's redirections have them."""
    line = ["bash", "-c", f'"$@" {shell}', "bash", sys.executable, "-m", *options]
    return subprocess.run(line, cwd=folder, stdin=stdin, capture_output=True, timeout=250)


@contextmanager
def _on_terminal(
    options: list[str], folder: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start a command on a terminal of its own, of which the other end is yielded too."""
    main, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    command = [sys.executable, "-c", CONTROLLED, *options]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        try:
            yield process, main
        finally:
            process.kill()
            with suppress(OSError):
                os.close(main)


CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
)
"""Makes the terminal the one that controls its session, as a shell's is."""


def _rest(main: int) -> bytes:
    shown = b""
    with suppress(OSError):  # the end of a pseudo-terminal's output is an error
        while part := os.read(main, 65536):
            shown += part
    return shown


def _states(folder: Path) -> list[str]:
    """Return the states of the trials that have begun."""
    if not (folder / "search.db").exists():
        return []
    with closing(sqlite3.connect(folder / "search.db")) as database:
        try:
            rows = database.execute("SELECT state FROM trials WHERE state != 'WAITING'").fetchall()
        except sqlite3.OperationalError:  # no table yet
            return []
    return [state for (state,) in rows]
