"""The guarantees hold for any training: one with dropout and branches, and one without PyTorch.

A search that is killed at random moments ends with the same trials, choices and metrics as an
undisturbed one.
"""

import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from search.weights import find, load
from tests.support.commands import Command, Run, fresh_environment
from tests.support.databases import rows

EXAMPLES = Path(__file__).parents[2] / "studies" / "examples"
RESIDUAL = f"""
import sys
sys.path.append({str(EXAMPLES)!r})
from residual import Choices, AdamW, study
more = Choices(width=16, blocks=1, norm="group", dropout=0.3,
               optimizer=AdamW(lr=0.002, weight_decay=0.01))
study = study.changed({{"dataset": "digits", "images": 256, "batch_size": 32, "epochs": 4,
                       "trials": 12, "variants": {{**study.variants, "dropped": more}}}})
"""
"""The residual network, on images that need no download."""
LINEAR = f"""
import sys
sys.path.append({str(EXAMPLES)!r})
from linear import study
from search.study.pruners import Promotion
study = study.changed({{"trials": 14, "epochs": 6, "pruner": Promotion()}})
"""
"""The linear model, whose pruned trials go on once they earn it."""
BEGUN = "On CPU"
KILLS = 4


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}_study.py"
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "url"),
    [("residual", RESIDUAL, "sqlite"), ("linear", LINEAR, "postgresql")],
    ids=["residual-sqlite", "linear-postgresql"],
    indirect=["url"],
)
def test_a_killed_search_of_any_training_ends_as_an_undisturbed_one(
    name: str, text: str, url: str, tmp_path: Path
) -> None:
    file = _file(tmp_path, name, text)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected_url = f"sqlite:///{whole / 'search.db'}"
    for folder in (whole, killed):
        folder.mkdir()
    with Run(whole, "run", "--study", file) as run:
        run.until(BEGUN)
        began = time.monotonic()
        assert run.end() == 0, run.errors
        seconds = time.monotonic() - began
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    for _ in range(KILLS):
        with Run(killed, "run", "--study", file, "--storage", url) as run:
            run.until(BEGUN)
            with suppress(subprocess.TimeoutExpired):
                run.end(moments.uniform(0, seconds / KILLS))
            run.kill()
            assert run.end() in (-signal.SIGKILL, 0)
    with Run(killed, "run", "--study", file, "--storage", url) as run:
        assert run.end() == 0, run.errors
    expected = rows(expected_url, name)
    assert {row["state"] for row in expected} == {"COMPLETE", "PRUNED"}
    for ours, theirs in zip(rows(url, name), expected, strict=True):
        if name == "linear":  # the bytes of a pickled model depend on how it was made
            assert bool(ours.pop("weights")) == bool(theirs.pop("weights"))
        assert ours == theirs


@pytest.mark.slow
def test_a_network_of_ones_own_is_searched_replayed_run_again_and_classifies(
    tmp_path: Path, search: Command
) -> None:
    file = _file(tmp_path, "residual", RESIDUAL)
    study = ("--study", str(file))
    enqueued = "optimizer=AdamW optimizer.AdamW.lr=0.003 width=16"
    done = search("run", *study, "--workers", 2, "--enqueue", enqueued)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Trials: 12 of 12 finished: " in done.stdout
    assert "2 workers, each on CPU, 1 thread" in done.stdout
    found = rows(f"sqlite:///{tmp_path / 'search.db'}", "residual")
    for row in found:
        params: dict[str, Any] = dict(row["params"])
        taken = {name.split(".")[1] for name in params if name.count(".") == 2}
        assert taken == {params["optimizer"]}
    assert {dict(row["params"])["optimizer"] for row in found} == {"SGD", "AdamW"}
    done = search("reproduce", *study, "--trial", "best")
    assert "All metrics are the same, bit for bit" in done.stdout
    done = search("reproduce", *study, "--top", 2, "--repeats", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| test accuracy, mean ± sd (range) |" in " ".join(done.stdout.split())
    for form in ("html", "json", "markdown"):
        assert search("report", *study, "--format", form).returncode == 0
    exported = search("search.__main__", "export", "residual")
    assert "optimizer.SGD.lr" in exported.stdout
    best = search(
        "search.__main__", "export", "residual", "--best", "--as", "python", "--file", file
    )
    assert re.fullmatch(r"Choices\(width=.*, optimizer=(SGD|AdamW)\(lr=.*\)\)\n", best.stdout)
    path = find(
        f"sqlite:///{tmp_path / 'search.db'}", "residual", "best", artifacts=tmp_path / "artifacts"
    )
    classifier = load(path, study=str(file))
    assert classifier.about.about.study == "residual"
    assert len(classifier.about.classes) == 10


def test_a_study_without_pytorch_needs_none_in_its_worker(tmp_path: Path, search: Command) -> None:
    (tmp_path / "linear_study.py").write_text(
        LINEAR + "import atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=open('torch.txt', 'w')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "search.run", "--study", "linear_study.py", "--trials", "2"],
        cwd=tmp_path, env=fresh_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "torch.txt").read_text() == "False\n"
