"""Signals at any moment of a command's life; those of a search at work are in
`tests/guarantees/test_resume.py` and `test_launch.py`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MOMENTS = {
    "anywhere": "os.kill(os.getpid(), number)",
    "where an exception is lost": (
        "class Dying:\n    def __del__(self): os.kill(os.getpid(), number)\nDying()\n"
    ),
    "where a library makes another exception of it": (
        "try:\n"
        "    os.kill(os.getpid(), number)\n"
        "except BaseException:\n"
        "    raise ImportError('numpy') from None\n"
    ),
    "twice": (
        "try:\n    os.kill(os.getpid(), number)\nfinally:\n    os.kill(os.getpid(), number)\n"
    ),
    "after the command": "import atexit\natexit.register(os.kill, os.getpid(), number)\n",
}
"""What a study's file may do while it is loaded, which a signal from elsewhere would meet."""


def _loading(
    folder: Path, code: str, number: signal.Signals, *, ignored: bool = False
) -> "subprocess.CompletedProcess[str]":
    (folder / "mine.py").write_text(f"import os\nnumber = {number:d}\n{code}")
    return subprocess.run(
        [sys.executable, "-m", "search.report", "--study", "mine.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=(lambda: signal.signal(number, signal.SIG_IGN)) if ignored else None,
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_before_the_work_ends_a_command_without_a_word(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    done = _loading(tmp_path, MOMENTS["anywhere"], number)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("moment", list(MOMENTS)[1:])
def test_it_does_so_at_any_moment(tmp_path: Path, moment: str) -> None:
    done = _loading(tmp_path, MOMENTS[moment], signal.SIGINT)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As `nohup` and a shell's `&` have it."""
    done = _loading(tmp_path, MOMENTS["anywhere"], number, ignored=True)
    assert done.returncode == 2
    assert "it does not define a `study`" in done.stderr


def test_ctrl_c_during_the_imports_of_a_command_gives_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "shlex.py").write_text("import os\nos.kill(os.getpid(), 2)\n")  # one of them
    done = subprocess.run(
        [sys.executable, "-m", "search.report", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
