"""Search from Python: in a script, in a notebook, and with what it returns."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from search.api import Result, run
from search.errors import UserError
from search.study.study_file import load
from tests.support.callbacks import Recorder

STUDY = """
from dataclasses import dataclass
from typing import Annotated
import time

from optuna.distributions import FloatDistribution

from search.study import Study

@dataclass(frozen=True, kw_only=True)
class Choices:
    lr: Annotated[float, FloatDistribution(1e-3, 1.0, log=True)]

class Descent:
    \"\"\"Minimizes x**2 by gradient descent from 1.\"\"\"

    seconds = 0.0

    def __init__(self, run):
        self.run = run
        self.x = 1.0

    def fit(self, after=0):
        for _ in range(after, self.run.epochs):
            time.sleep(self.seconds)
            self.x -= self.run.choices.lr * 2 * self.x
            yield {"loss": self.x**2}

    def state_dict(self):
        return {"x": self.x}

    def load_state_dict(self, state):
        self.x = state["x"]

study = Study(
    name="descent", choices=Choices, train=Descent, metric="loss", direction="minimize",
    trials=6, epochs=4,
)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study's file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "descent.py"
    path.write_text(STUDY)
    return path


def test_a_search_returns_the_best_trial_and_a_table(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Result[Any] = run(load(str(file)), trials=5)
    assert found.is_done
    # A study that is no file has no command to report on it.
    assert capsys.readouterr().out.endswith("Next:\n  python -m search.dashboard\n")
    complete = [row for row in found.rows if row["state"] == "COMPLETE"]
    best = min(complete, key=lambda row: float(row["loss"]))
    assert (found.best.number, found.best.values) == (best["number"], [best["loss"]])
    assert found.choices == found.study.choices(lr=best["lr"])
    assert json.loads(found.choices_json) == {"lr": best["lr"]}
    assert found.study.space.parse(found.choices_line) == {"lr": best["lr"]}
    assert repr(found) == f"<Result of descent: 5 finished, best trial {best['number']}: lr=" + (
        f"{best['lr']!r}>"
    )
    for row in complete:  # after four steps of gradient descent
        assert row["loss"] == pytest.approx((1 - 2 * row["lr"]) ** 8)
        assert (row["value"], row["epochs"]) == (row["loss"], 4)
    assert [row["number"] for row in found.rows] == [0, 1, 2, 3, 4]
    more: Result[Any] = run(str(file), trials=6, enqueue="lr=0.5")
    assert more.rows[:5] == found.rows
    assert more.choices == more.study.choices(lr=0.5)


def test_the_callbacks_of_a_study_are_called_in_this_process(file: Path) -> None:
    calls = Recorder()
    found: Result[Any] = run(replace(load(str(file)), callbacks=[calls]), trials=2)
    assert {row["number"] for row in found.rows} == {trial for trial, *_ in calls.end_order}
    assert len(calls.epochs) == sum(row["epochs"] for row in found.rows)


def test_the_command_goes_on_with_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(file, trials=3)
    capsys.readouterr()
    again = run(file)
    assert again.is_done
    assert "3 of 3 trials done" in capsys.readouterr().out


def test_a_search_says_that_its_studys_file_has_changed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "The study's file has changed since trial 1 was trained"
    run(file, trials=1)
    run(file, trials=2)
    assert note not in capsys.readouterr().out
    file.write_text(STUDY.replace("= 1.0\n", "= 1.5\n"))
    run(file, trials=3)
    assert note in capsys.readouterr().out


def test_several_workers_load_the_study_from_its_file(file: Path) -> None:
    with pytest.raises(UserError, match="write it to a file that defines `study`, and give"):
        run(load(str(file)), workers=2)
    assert not Path("search.db").exists()
    assert run(file, workers=2).is_done


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"trails": 5}, "trails: there is no such option"),
        ({"trials": 0}, "trials: a whole number of 1 or more is needed, not '0'"),
        ({"trials": 2.5}, "trials: a whole number of 1 or more is needed"),
        ({"timeout": "soon"}, "timeout: a number of seconds above 0 is needed"),
        ({"select": "train"}, "select: test, validation is needed, not 'train'"),
        ({"variants": "no"}, "variants: True or False is needed, not 'no'"),
        ({"enqueue": ["lr=5"]}, "--enqueue: lr must be a number from 0.001 to 1, not 5"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], complaint: str, file: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        run(file, **options)
    assert not Path("search.db").exists()


@pytest.mark.slow
def test_an_interrupt_stops_a_script_cleanly_and_the_same_call_resumes(file: Path) -> None:
    Path("script.py").write_text(
        "import sys\n"
        "from search.api import run\n"
        "from search.study import load\n"
        "study = load('descent.py')\n"
        "study.train.seconds = float(sys.argv[1])\n"
        "found = run(study, trials=4)\n"
        "print('done' if found.is_done else 'stopped', len(found.rows))\n"
    )
    command = [sys.executable, "script.py"]
    said: list[str] = []
    with subprocess.Popen([*command, "0.5"], stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        for line in script.stdout:
            if "EPOCH: 1" in line and "EPOCH: 1" not in "".join(said):
                script.send_signal(signal.SIGINT)
            said.append(line)
    assert script.returncode == 0
    assert said[-1].startswith("stopped ")
    done = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
    assert "[0] EPOCH: 1 " not in done.stdout
    assert done.stdout.endswith("\ndone 4\n")


@pytest.mark.slow
def test_a_study_of_a_notebook_is_searched_stopped_and_resumed_in_it(tmp_path: Path) -> None:
    run_cell = "from search.api import run\nfound = run(study)\nfound"
    cells = [
        STUDY.replace("seconds = 0.0", "seconds = 0.5"),
        run_cell,
        "Descent.seconds = 0.0\n" + run_cell,
        "import pandas; len(pandas.DataFrame(found.rows))",
        "run(study, workers=2)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])  # type: ignore[no-untyped-call]
    client = nbclient.NotebookClient(
        notebook,
        timeout=100,
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
        kernel_name="python3",
    )
    with client.setup_kernel():
        client.execute_cell(notebook.cells[0], 0)
        stop = threading.Thread(target=_interrupt, args=(client, notebook.cells[1]))
        stop.start()
        for index in range(1, len(cells)):
            client.execute_cell(notebook.cells[index], index)
        stop.join()
    stopped, resumed, counted, refused = (_shown(cell) for cell in notebook.cells[1:])
    assert "[0] EPOCH: 1 loss" in stopped
    assert "Stopped by SIGINT; run the same command to resume" in stopped
    assert "[0] EPOCH: 1 " not in resumed
    assert "Trials: 6 of 6 finished" in resumed
    assert "<Result of descent: 6 finished, best trial " in resumed
    assert counted == "6"
    assert "other processes cannot load the study descent from this one" in refused


def _interrupt(client: nbclient.NotebookClient, cell: Any) -> None:
    """Interrupt the kernel once the cell has shown an epoch."""
    until = time.monotonic() + 60
    while "EPOCH: 1" not in _shown(cell) and time.monotonic() < until:
        time.sleep(0.05)
    assert client.km is not None
    client.km.provisioner.process.send_signal(signal.SIGINT)  # type: ignore[union-attr]


def _shown(cell: Any) -> str:
    """Return the text of a cell's output."""
    return "".join(
        out.get("text") or out.get("evalue") or out.get("data", {}).get("text/plain", "")
        for out in cell.outputs
    )
