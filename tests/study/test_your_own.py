"""The pages about a study of one's own: their file, commands and snippets all work."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.study.dataset_spec import SPLITS
from search.study.study import Study
from tests.support.commands import Command

ROOT = Path(__file__).parents[2]
IMAGES = (ROOT / "docs" / "own-images.md").read_text()
ENTRY = (ROOT / "studies" / "your-own.md").read_text()
FILE, *SNIPPETS = re.findall(r"^```python\n(.*?)^```$", IMAGES + ENTRY, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^python -m search\.(.*)$", IMAGES, re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the page's file, and 20 pictures of each of two flowers."""
    (tmp_path / "flowers.py").write_text(FILE)
    rng = np.random.default_rng(0)
    for name, colour in (("rose", (200, 30, 60)), ("tulip", (230, 200, 40))):
        place = tmp_path / "data" / "flowers" / name
        place.mkdir(parents=True)
        for number in range(20):
            noise = rng.integers(-30, 25, (24, 36, 3))
            Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(
                place / f"{number}.png"
            )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_study_of_the_page_runs_to_its_end_and_its_snippets_do(
    folder: Path, search: Command
) -> None:
    printed = []
    for command in COMMANDS:
        done = search(*shlex.split(command))
        assert (done.returncode, done.stderr) == (0, "")
        printed.append(done.stdout)
    assert "data/flowers: resizing 40 pictures to 32×32" in printed[0]
    assert "Trials: 8 of 8 finished: " in printed[0]
    assert "Trials: 10 of 10 finished: " in printed[2]
    assert "resizing" not in printed[2]
    assert len(list((folder / "data" / "prepared").glob("flowers-32-*.safetensors"))) == 1
    assert re.search(r"sgd.*\n.*adamax", (folder / "report-flowers.md").read_text())
    for snippet in SNIPPETS:
        names: dict[str, object] = {}
        exec(FILE + snippet, names)
        assert isinstance(names["study"], Study)
        if "classify" in snippet:
            assert names["name"] in ("rose", "tulip")


def test_the_pages_have_code_of_every_kind_and_names_every_dataset_of_torchvision() -> None:
    assert len(COMMANDS) == 3
    assert len(SNIPPETS) == 6
    assert set(SPLITS) <= set(re.findall(r"`(\w+)`", IMAGES))
