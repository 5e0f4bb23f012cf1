"""The command, as a user types it."""

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from search.database.database import Database
from tests.support.commands import Command
from tests.support.databases import PASSWORD

QUICK = ("--study", "digits", "--images", 160, "--epochs", 3, "--threads", 1, "--trials", 8)


def _states(folder: Path) -> dict[int, str]:
    database = Database(f"sqlite:///{folder / 'search.db'}")
    trials = database.optuna.get_all_trials(1)
    database.close()
    return {trial.number: trial.state.name for trial in trials}


def test_a_search_runs_tells_its_epochs_and_ends_with_its_tables(
    search: Command, tmp_path: Path
) -> None:
    done = search("run", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "Study digits in sqlite:///search.db: 0 of 8 trials done." in lines[0]
    assert lines[1] == "Look at it with: python -m search.dashboard"
    assert lines[2] == "On CPU, 1 thread."
    assert re.search(r"^An epoch takes about [0-9.]+ seconds.$", done.stdout, re.MULTILINE)
    figure = r"\d\.\d{5}"
    assert re.search(
        rf"^\[1 question-1\] EPOCH: 1 train_loss: {figure} train_acc: {figure} "
        rf"test_loss: {figure} test_acc {figure}$",
        done.stdout,
        re.MULTILINE,
    )
    assert re.search(
        r"^\[5 question-4.2\] COMPLETE after 3 of 3 epochs: accuracy", done.stdout, re.M
    )
    assert re.search(r"^\[[67]\] EPOCH: 1 batch_loss: ", done.stdout, re.M)
    assert "Best trials by test accuracy" in done.stdout
    assert re.search(r"│ question-4.2 │ 5 +│ COMPLETE │ 3 of 3 │ +0\.\d{4} │", done.stdout)
    assert "Trials: 8 of 8 finished: " in done.stdout
    assert re.search(r"Epochs: \d+ run of 24 possible \(\d+%\)\.", done.stdout)
    assert "optimistic" in done.stdout
    assert len(_states(tmp_path)) == 8


def test_a_finished_study_is_shown_at_once_and_extended_by_a_higher_budget(
    search: Command, tmp_path: Path
) -> None:
    first = search("run", *QUICK)
    again = search("run", *QUICK)
    assert again.returncode == 0
    assert "8 of 8 trials done" in again.stdout
    assert "EPOCH" not in again.stdout
    assert again.stdout.split("Best trials")[1] == first.stdout.split("Best trials")[1]
    more = search("run", *QUICK[:-1], 10)
    assert "8 of 10 trials done" in more.stdout
    assert "[0 base]" not in more.stdout
    assert set(_states(tmp_path)) == set(range(10))


def test_a_finished_study_has_room_for_a_trial_that_is_enqueued_and_keeps_it(
    search: Command,
) -> None:
    options = (*QUICK[:-1], 2, "--no-variants")
    assert search("run", *options).returncode == 0
    done = search("run", *options, "--enqueue", "bn1=plain")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Trials: 3 of 3 finished" in done.stdout
    done = search("run", *QUICK[:-2], "--no-variants")  # without --trials
    assert "3 of 3 trials done" in done.stdout


def test_a_study_whose_first_variant_diverges_starts_all_the_same(
    search: Command, wild_study: Path
) -> None:
    done = search("run", "--study", wild_study)
    assert (done.returncode, done.stderr) == (0, "")
    assert "On CPU" in done.stdout
    assert "An epoch takes about" not in done.stdout
    # No markup of the terminal's, which would be malformed.
    assert "[0 wild[/i]] PRUNED after 0 of 8 epochs: batch_loss is nan in epoch 1" in done.stdout
    assert "│ wild[/i] │" in done.stdout


def test_enqueued_trials_and_a_study_without_variants(search: Command, tmp_path: Path) -> None:
    options = (*QUICK[:-1], 2, "--no-variants", "--measure-train")
    done = search("run", *options, "--enqueue", "optimizer=SGD lr=0.02", "--enqueue", "bn1=plain")
    assert done.returncode == 0, done.stderr
    assert "[0 enqueued] EPOCH: 1 train_loss:" in done.stdout
    assert re.search(r"│ 0 enqueued +│ .*optimizer=SGD lr=0\.02", done.stdout)
    assert "Variants" not in done.stdout
    assert len(_states(tmp_path)) == 2


def test_selecting_on_validation_says_so(search: Command) -> None:
    done = search("run", *QUICK[:-1], 2, "--select", "validation")
    assert "Best trials by validation accuracy" in done.stdout
    assert "validation_acc" in done.stdout
    assert "test accuracy was measured once" in done.stdout


def test_a_time_limit_leaves_the_rest_for_the_next_time(search: Command) -> None:
    done = search("run", *QUICK, "--timeout", 0.001)
    assert done.returncode == 0
    assert "Stopped by --timeout; the same command goes on where it was." in done.stdout
    assert "6 waiting" in done.stdout


def test_help_explains_every_option(search: Command) -> None:
    done = search("run", "--help")
    assert done.returncode == 0
    documented = set(re.findall(r"(?:^ |,) (?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert documented == {
        "--help", "--study", "--name", "--storage", "--data", "--artifacts", "--trials",
        "--epochs", "--images", "--device", "--threads", "--seed", "--timeout", "--select",
        "--enqueue", "--measure-train", "--variants", "--no-variants", "--workers",
            "--ray", "--gpus-per-worker",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--study", "cifra"], "unknown study; known: cifar, digits"),
        (["--study", "mine/none.py"], "there is no such file"),
        ([], "the following arguments are required: --study"),
        (["--study", "digits", "--trials", "0"], "--trials: a whole number of 1 or more is needed"),
        (["--study", "digits", "--epochs", "many"], "--epochs: a whole number of 1 or more"),
        (["--study", "digits", "--images", "33"], "a last batch of a single image"),
        (
            ["--study", "digits", "--images", "5000"],
            "--images 5000: there are 1438 images to train on",
        ),
        (["--study", "digits", "--timeout", "nan"], "--timeout: a number of seconds above 0"),
        (["--study", "digits", "--threads", "99999"], "--threads: a whole number from 1 to 1024"),
        (["--study", "digits", "--name", "../x"], "with no / in it, not '../x'"),
        (["--study", "digits", "--name", "x" * 101], "at most 100 bytes, not 101"),
        (["--study", "digits", "--device", "cuda:300"], "give auto, cuda, cuda:1, mps or cpu"),
        (["--study", "digits", "--storage", "sqlite:///s.db?timeout=x"], "takes nothing after a ?"),
        (["--study", "cifar", "--images", "50001"], "there are 50000 images to train on"),
        (
            ["--study", "digits", "--seed", "-1"],
            "--seed: a whole number from 0 to 9223372036854775807",
        ),
        (["--study", "digits", "--trial", "3"], "unrecognized arguments: --trial"),
        (["--study", "digits", "--select", "train"], "--select: invalid choice: 'train'"),
        (
            ["--study", "digits", "--device", "cuda:7"],
            "no such device that PyTorch can use; nvidia-smi",
        ),
        (["--study", "digits", "--device", "gpu"], "give auto, cuda, cuda:1, mps or cpu"),
        (["--study", "digits", "--enqueue", "momentum=1"], "unknown parameter 'momentum'"),
        (["--study", "digits", "--enqueue", "lr=7"], "lr is a number from 0.0001 to 0.1, not 7"),
        (["--study", "digits", "--storage", "redis://h"], "SQLite and PostgreSQL are known"),
        (["--study", "digits", "--storage", "postgresql://me:hush@127.0.0.1:9/x"], "refused"),
        (["--study", "digits", "--storage", "sqlite:///none/s.db"], "there is no folder none"),
        (["--study", "digits", "--storage", "sqlite:///text"], "file is not a database"),
        (["--study", "digits", "--artifacts", "text"], "--artifacts text: "),
        (["--study", "cifar", "--data", "text"], "--data text: "),
    ],
)
def test_bad_input_gets_one_line_status_2_and_nothing_is_written(
    search: Command, tmp_path: Path, options: list[str], complaint: str
) -> None:
    (tmp_path / "text").write_text("no database, no folder" * 50)
    done = search("run", *options)
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert done.stderr.startswith("python -m search.run: error: ")
    assert done.stderr.count("\n") == 1
    assert "hush" not in done.stderr + done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text().startswith("no database")


def test_another_definition_is_refused_with_the_difference(search: Command) -> None:
    search("run", *QUICK[:-1], 1)
    done = search("run", "--study", "digits", "--images", 160, "--epochs", 4)
    assert done.returncode == 2
    assert "epochs is 3 in the database and 4 here" in done.stderr


def test_postgresql_works_by_its_url_alone_and_its_password_stays_secret(
    search: Command, url: str
) -> None:
    done = search("run", *QUICK[:-1], 2, "--storage", url, "--artifacts", "my files")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 finished" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "search.dashboard" in line)
    if url.startswith("sqlite"):
        options = f"--storage {url} --artifacts 'my files'"
        assert line == f"Look at it with: python -m search.dashboard {options}"
    else:
        masked = shlex.quote(make_url(url).render_as_string(hide_password=True))
        command = f"SEARCH_STORAGE={masked} python -m search.dashboard --artifacts 'my files'"
        assert line == f"Look at it with: {command}"


def test_a_signal_stops_within_a_batch_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "search.run", *map(str, QUICK), "--epochs", "500"]
    shown = ""
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in iter(process.stdout.readline, ""):
                shown += line
                if "EPOCH" in line:
                    break
            process.send_signal(number)
            asked = time.monotonic()
            rest = process.stdout.read()
            assert process.wait(timeout=120) == status
        assert time.monotonic() - asked < 10
        assert f"Stopped by {number.name}; the same command goes on where it was." in rest
        assert _states(tmp_path)[0] == "RUNNING"
        shown += rest
    (checkpoint,) = (tmp_path / "artifacts" / "files").iterdir()
    assert subprocess.run([*command, "--timeout", "0.001"], cwd=tmp_path).returncode == 0
    assert checkpoint.exists()  # for whoever goes on
    numbers = [int(n) for n in re.findall(r"\[0 base\] EPOCH: (\d+)", shown)]
    assert numbers == list(range(1, len(numbers) + 1))
    parts = re.split(r"^\[0 base\] goes on after epoch (\d+)$", shown, flags=re.MULTILINE)
    assert len(parts) == 5
    for after, then in zip(parts[1::2], parts[2::2], strict=True):
        assert f"[0 base] EPOCH: {int(after) + 1} " in then


def test_on_a_terminal_the_running_trials_are_shown_live(tmp_path: Path) -> None:
    options = [*map(str, QUICK[:-1]), "7"]
    shown = "".join(_on_terminal(["run", *options], tmp_path))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"trial +epoch +batches/s +accuracy", plain)
    assert re.search(r"best 0\.\d{4} \(trial ", plain)
    assert re.search(r" \d of 7 trials", plain)
    assert re.search(r"\d pruned, 0 failed; time left: about \d:\d\d:\d\d", plain)
    assert re.search(r"[0-5] [a-z0-9.-]+ +[123] of 3", plain)
    assert "Best trials by test accuracy" in plain
    assert "EPOCH" not in plain


def _on_terminal(command: list[str], folder: Path) -> Iterator[str]:
    """Run `python -m search.COMMAND` on a pseudo-terminal of 100 columns; yield what it shows."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ |= {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
        name, *options = command
        os.execv(sys.executable, [sys.executable, "-m", f"search.{name}", *options])
    deadline = time.monotonic() + 60
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal's output is an error
        while select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
            yield os.read(terminal, 65536).decode(errors="replace")
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
