"""The Tab key, in a real bash with argcomplete's own set-up line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.cli.completion import devices

pytestmark = pytest.mark.slow

ASK = """
eval "$(activate-global-python-argcomplete --dest=-)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
read -r -a COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
_python_argcomplete_global python
printf '%s\\n' "${COMPREPLY[@]}"
"""


def _completed(line: str, folder: Path) -> set[str]:
    """Return what bash offers behind `line`, typed in `folder` with the environment activated."""
    binaries = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", line],
        cwd=folder,
        env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return {word.strip() for word in done.stdout.split("\n") if word}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m search.run --stu", {"--study"}),
        ("python -m search.run --study c", {"cifar"}),
        ("python -m search.run --study ", {"cifar", "digits", "flowers.py", "mine/"}),
        ("python -m search.run --study mine/", {"mine/own.py"}),
        ("python -m search.run --study digits --select ", {"test", "validation"}),
        ("python -m search.run --study digits --data m", {"mine/"}),
        ("python -m search.run --study digits --trials ", set()),
        ("python -m search.report --study digits --format m", {"markdown"}),
        ("python -m search.reproduce --study cifar --compare ", {"runs.csv", "mine/"}),
        ("python -m studies.cifar.batchnorm --cha", {"--change"}),
        ("python -m search.dashboard --allow", {"--allow-edits", "--allowed-host"}),
    ],
)
def test_bash_completes_what_fits(line: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("flowers.py", "mine/own.py", "runs.csv", "notes.txt"):
        (tmp_path / name).touch()
    assert _completed(line, tmp_path) == offered


def test_devices_are_those_of_the_machine(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (tmp_path / name).touch()
    assert devices(tmp_path) == ["auto", "cpu", "cuda", "mps", "cuda:0", "cuda:1"]


def test_without_the_extra_a_shell_gets_no_answer() -> None:
    code = "import sys; sys.modules['argcomplete'] = None\nimport search.run\n"
    command = [sys.executable, "-c", code + "sys.exit(search.run.main())", "--study", "cifra"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    asked = subprocess.run(command, capture_output=True, env={**os.environ, "_ARGCOMPLETE": "1"})
    assert asked.returncode == 2
    assert b"argcomplete" in asked.stderr
