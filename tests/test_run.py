"""The command, as a user types it."""

import contextlib
import os
import pty
import re
import select
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import dashboard
from tests.support.commands import QUICK, Command, Run
from tests.support.databases import overview, states


def test_a_search_runs_tells_its_epochs_and_ends_with_its_tables(
    search: Command, tmp_path: Path
) -> None:
    done = search("run", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "Study digits in sqlite:///search.db: 0 of 8 trials done." in lines[0]
    assert lines[1] == "View it with: python -m search.dashboard"
    assert lines[2] == "On CPU, 1 thread."
    figure, time = r"\d\.\d{5}", r"^\d\d:\d\d:\d\d "
    assert re.search(
        rf"{time}\[1 question-1\] EPOCH: 1 train_loss: {figure} train_acc: {figure} "
        rf"test_loss: {figure} test_acc: {figure} seconds: \d+\.\d\d$",
        done.stdout,
        re.MULTILINE,
    )
    for trial in range(8):
        (begun,) = re.findall(rf"{time}\[{trial}\b.*\] begins: (.*)$", done.stdout, re.MULTILINE)
        assert re.search(r"^bn1=\w+ bn2=\w+ .* lr=[\d.e-]+ .* schedule=\w+$", begun)
    assert re.search(
        rf"{time}\[5 question-4.2\] COMPLETE after 3 of 3 epochs: accuracy 0\.\d{{4}}; best "
        r"0\.\d{4} \((trial \d|base|question-[\d.]+)\)$",
        done.stdout,
        re.MULTILINE,
    )
    assert re.search(rf"{time}\[[67]\] EPOCH: 1 batch_loss: ", done.stdout, re.M)
    assert "Best trials by test accuracy" in done.stdout
    assert "Ended: 8 of 8 trials are done.\nThis command took 0:00:" in done.stdout
    assert re.search(r"│ question-4.2 │ 5 +│ +0\.\d{4} │ +0\.\d{4} \(\d\) │", done.stdout)
    assert lines[-4:] == [
        "Next:",
        "  python -m search.report --study digits",
        "  python -m search.reproduce --study digits --trial best --repeats 5",
        "  python -m search.dashboard",
    ]
    assert "Trials: 8 of 8 finished: " in done.stdout
    assert re.search(
        r"Epochs: \d+ of 24 possible \(\d+%\)(; pruning saved \d+ epochs?, about 0:00:0\d)?\.",
        done.stdout,
    )
    assert "optimistic" in done.stdout
    assert len(states(tmp_path)) == 8


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
    assert set(states(tmp_path)) == set(range(10))


def test_a_finished_study_has_room_for_an_enqueued_trial(
    search: Command,
) -> None:
    options = (*QUICK[:-1], 2, "--no-variants")
    assert search("run", *options).returncode == 0
    done = search("run", *options, "--enqueue", "bn1=plain")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Trials: 3 of 3 finished" in done.stdout
    done = search("run", *QUICK[:-2], "--no-variants")  # without --trials
    assert "3 of 3 trials done" in done.stdout


def test_enqueued_trials_and_a_study_without_variants(search: Command, tmp_path: Path) -> None:
    options = (*QUICK[:-1], 2, "--no-variants", "--measure-train")
    done = search("run", *options, "--enqueue", "optimizer=SGD lr=0.02", "--enqueue", "bn1=plain")
    assert done.returncode == 0, done.stderr
    assert "[0 enqueued] EPOCH: 1 train_loss:" in done.stdout
    assert re.search(r"│ 0 enqueued +│ .* SGD +│ 0\.02 +│", done.stdout)
    assert "Variants" not in done.stdout
    assert len(states(tmp_path)) == 2


def test_an_optional_variant_runs_only_if_it_is_enqueued(search: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from studies.digits import study\n"
        "base = study.variants['base']\n"
        "study = study.changed({'name': 'mine', 'images': 100, 'epochs': 1, 'trials': 1})\n"
        "study = replace(study, variants={'base': base},\n"
        "                optional_variants={'fast': replace(base, lr=0.0625)})\n"
    )
    options = ("--study", "mine.py", "--threads", 1)
    assert search("run", *options).returncode == 0
    assert len(states(tmp_path)) == 1
    refused = search("run", *options, "--enqueue", "slow")
    assert refused.returncode == 2
    assert "or the name of a variant (base, fast), not 'slow'" in refused.stderr
    done = search("run", *options, "--enqueue", "fast")
    assert "[1 fast] begins: bn1=off" in done.stdout
    assert "Trials: 2 of 2 finished" in done.stdout
    again = search("run", *options)
    assert re.search(r"│ fast +│ 1 +│ +0[.]", again.stdout)
    alone = search("run", *options, "--name", "alone", "--no-variants", "--enqueue", "base")
    assert "[0 base] begins: bn1=off" in alone.stdout
    one = "reproduce", *options, "--variant"
    assert "fast" not in search("reproduce", *options).stdout
    assert re.search(r"fast +[|] +1 [|] +0[.]", search(*one, "fast").stdout)
    assert "no such variant; known: base, fast\n" in search(*one, "slow").stderr


def test_selecting_on_validation_says_so(search: Command) -> None:
    done = search("run", *QUICK[:-1], 2, "--select", "validation")
    assert "Best trials by validation accuracy" in done.stdout
    assert "validation_acc" in done.stdout
    assert "test accuracy was measured once" in done.stdout


def test_a_time_limit_leaves_the_rest_for_the_next_time(search: Command) -> None:
    done = search("run", *QUICK, "--timeout", 0.001)
    assert done.returncode == 0
    assert "Stopped by --timeout; run the same command to resume." in done.stdout
    assert "6 waiting" in done.stdout
    assert "Epochs: 0 recorded." in done.stdout


def test_what_an_interrupted_search_has_recorded_is_told(search: Command, tmp_path: Path) -> None:
    with Run(tmp_path, "search.run", *QUICK, "--epochs", 500) as run:
        run.until("EPOCH: 2")
    done = search("run", *QUICK, "--epochs", 500, "--timeout", 0.001)
    first = done.stdout.splitlines()[0]
    told = re.fullmatch(r"Study .*: 0 of 8 trials done, 1 begun; (\d+) epochs recorded\.", first)
    assert told, first
    assert int(told[1]) == overview(tmp_path, "digits").n_recorded


def test_the_commands_that_are_printed_run_as_they_stand(search: Command, tmp_path: Path) -> None:
    def run(line: str) -> str:
        python, option, module, *words = shlex.split(line)
        assert (python, option) == ("python", "-m")
        ran = search("search.__main__" if module == "search" else module, *words)
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    storage = "--storage", "sqlite:///my search.db"
    places = *storage, "--name", "mine?", "--artifacts", "my files", "--data", "my data"
    few = "--study", "digits", "--images", 60, "--epochs", 1, "--trials", 7
    done = search("run", *few, *places)
    report, rerun, view = done.stdout.splitlines()[-3:]
    assert "= marks such a tie with the best" in done.stdout
    assert " --top 5 " in rerun
    assert "report-mine?.html" in run(report)
    assert "(range)" in run(rerun)
    assert not (tmp_path / "artifacts").exists()
    options = dashboard.parser().parse_args(shlex.split(view)[3:])
    assert (options.storage, options.artifacts) == (storage[1], "my files")
    absent = search("report", "--study", "digits", "--name", "other", *storage)
    (create,) = re.findall("`(.*)`", absent.stderr)
    assert run(f"{create} --timeout 0.001")
    paused = search("search.__main__", "pause", "mine?", *storage)
    (resume,) = re.findall("`(.*)`", paused.stdout)
    assert run(resume) == "mine? goes on with the workers that wait for it.\n"


def test_help_explains_every_option(search: Command) -> None:
    done = search("run", "--help")
    assert done.returncode == 0
    documented = set(re.findall(r"(?:^ |,) (?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert documented == {
        "--help", "--study", "--name", "--storage", "--data", "--artifacts", "--trials",
        "--epochs-budget", "--target", "--patience", "--confirm", "--no-confirm", "--audit",
        "--epochs", "--images",
        "--device", "--threads", "--seed", "--timeout", "--select", "--precision", "--enqueue",
        "--measure-train", "--variants", "--no-variants",
        "--workers", "--ray", "--gpus-per-worker", "--redefine", "--from",
    }  # fmt: skip


@pytest.mark.slow
def test_on_a_terminal_the_running_trials_are_shown_live(tmp_path: Path) -> None:
    options = [*map(str, QUICK[:-1]), "7"]
    shown = "".join(_on_terminal(["run", *options], tmp_path))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"trial +epoch +(accuracy|choices|batches/s|worker)", plain)
    assert re.search(r"best 0\.\d{4} \(trial ", plain)
    assert re.search(r" \d of 7 trials", plain)
    times = r"elapsed \d:\d\d:\d\d, time left: (about|at most) \d:\d\d:\d\d"
    assert re.search(rf"1 running, \d pruned, 0 failed; {times}", plain)
    assert re.search(r"[0-5] [a-z0-9.-]+ +━*╌* [0123]/3", plain)
    assert re.search(r"ended +accuracy +how", plain)
    assert re.search(r"0 base +0\.\d{4} +complete after 3 epochs", plain)
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
