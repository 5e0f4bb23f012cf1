"""Pages with measured figures hold what the commands print that they name."""

import re
from pathlib import Path

import pytest

from tests.support.commands import Command

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "studies" / "cifar" / "README.md"
SHOWN = re.findall(r"^    python -m ([\w.]+) (.*(?:--compare|--show) .*)$", PAGE.read_text(), re.M)


def test_the_page_names_commands_that_show_its_figures() -> None:
    assert {name for name, _ in SHOWN} == {"search.reproduce", "studies.cifar.batchnorm"}


@pytest.mark.parametrize(("name", "options"), SHOWN)
def test_the_page_holds_what_its_commands_print(name: str, options: str, search: Command) -> None:
    words = [str(ROOT / word) if word.endswith(".csv") else word for word in options.split()]
    done = search(name, *words)
    assert done.returncode == 0, done.stderr
    page = {_spaced(line) for line in PAGE.read_text().splitlines()}
    printed = [_spaced(line) for line in done.stdout.splitlines()]
    assert len(printed) > 20
    assert [line for line in printed if line not in page] == []


def _spaced(line: str) -> str:
    return " ".join(line.split())
