"""The pages about own networks and trainings: their code and their examples run."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.study.study_file import load
from tests.support.commands import Command

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "studies" / "examples"


def _code(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["from-optuna.md", "from-ray-tune.md", "from-pytorch.md"])
def test_a_page_begins_with_the_others_code_and_ends_with_a_study_that_runs(
    page: str, tmp_path: Path, search: Command
) -> None:
    theirs, ours = _code(page)
    (tmp_path / "theirs.py").write_text(theirs)
    (tmp_path / "my_study.py").write_text(ours)
    if page != "from-ray-tune.md":  # that one is run with the tests of Ray
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        runpy.run_path(str(tmp_path / "theirs.py"))
    done = search("reproduce", "--study", "my_study.py", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    done = search("run", "--study", "my_study.py", "--trials", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Trials: 5 of 5 finished: " in done.stdout
    done = search("reproduce", "--study", "my_study.py", "--trial", "best")
    assert "All metrics are the same, bit for bit" in done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_the_page_about_ray_tune_begins_with_code_that_runs(tmp_path: Path) -> None:
    theirs, _ = _code("from-ray-tune.md")
    (tmp_path / "theirs.py").write_text(theirs)
    done = subprocess.run(
        [sys.executable, "theirs.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_about_callbacks_begins_with_a_study_that_runs(
    tmp_path: Path, search: Command
) -> None:
    mine, shipped = _code("callbacks.md")
    (tmp_path / "my_study.py").write_text(mine)
    done = search(
        "run", "--study", "my_study.py", "--images", 64, "--epochs", 1, "--trials", 9,
        "--workers", 2,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = (tmp_path / "log.txt").read_text().splitlines()
    assert len(told) == 18  # an epoch and an end each
    assert len([line for line in told if " complete 0." in line]) == 9
    assert len(list((tmp_path / "runs" / "mine").iterdir())) == 9
    names: dict[str, Any] = {}
    exec(shipped, names)
    assert len(names["callbacks"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "trials", "options"),
    [
        ("linear", 3, ()),
        ("boosting", 3, ()),
        ("language_model", 1, ("--epochs", 1)),  # ten seconds or more each
    ],
)
def test_an_example_runs_to_its_end_and_its_best_trial_replays(
    name: str,
    trials: int,
    options: tuple[object, ...],
    tmp_path: Path,
    search: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = ("--study", str(EXAMPLES / f"{name}.py"))
    done = search("run", *study, "--trials", trials, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Trials: {trials} of {trials} finished: " in done.stdout
    done = search("reproduce", *study, "--trial", "best")
    assert "All metrics are the same, bit for bit" in done.stdout
    done = search("report", *study, "--format", "markdown")
    assert (done.returncode, done.stderr) == (0, "")
    if name == "linear":
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        exec(_code("own-training.md")[1], names)
        assert set(names["kept"]) == {"model"}
    metric = load(study[1]).objective.words
    assert f"| trial | {metric} |" in (tmp_path / f"report-{name}.md").read_text()
