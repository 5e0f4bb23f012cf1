"""What all commands share: their help, and their answers to what is mistyped or missing."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import search.study
from search import __main__ as steering
from search import dashboard, report, reproduce, run
from search.cli.options import DEFAULT_STORAGE
from search.cli.parser import Parser
from studies.cifar.batchnorm import __main__ as batchnorm

COMMANDS = [run.parser, reproduce.parser, report.parser, dashboard.parser]
STEERING = next(action for action in steering.parser().actions if action.dest == "command")


@pytest.mark.parametrize("parser", [*COMMANDS, batchnorm.parser])
def test_help_has_defaults_examples_and_exit_statuses(
    parser: Callable[[], Parser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    made = parser()
    for action in made.actions:
        if action.dest != "help":
            assert re.search(r"\(default: |\(required", action.help or ""), action.dest
    text = made.format_help()
    assert f"examples:\n  {made.prog} " in text
    assert re.search("exit status: (0 done|1 the database became unavailable at the start), ", text)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", STEERING.choices or ())
def test_help_of_the_commands_that_steer_has_defaults(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    made = dict(STEERING.choices or {})[name]
    assert isinstance(made, Parser)
    for action in made.actions:
        if action.dest not in ("help", "study", "new"):
            assert re.search(r"\(default: |\(required", action.help or ""), action.dest
    text = made.format_help()
    assert text.startswith(f"usage: python -m search {name} ")
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("parser", [*COMMANDS, steering.parser])
def test_help_answers_at_once_since_it_imports_nothing_slow(parser: Callable[[], Parser]) -> None:
    name = parser.__module__
    code = (
        "import sys, runpy; sys.argv = ['it', '--help']\n"
        f"try: runpy.run_module({name!r}, run_name='__main__')\n"
        "except SystemExit: sys.exit(str({'torch', 'optuna', 'sqlalchemy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"usage: python -m {name.removesuffix('.__main__')} " in done.stdout
    assert done.stderr == "set()\n"


@pytest.mark.parametrize(
    ("main", "options", "complaint"),
    [
        (run.main, ["--study", "digits", "--epoch", "3"], "--epoch 3; did you mean --epochs?"),
        (run.main, ["--study", "digits", "--device=cpu", "--thread=1"], "mean --threads?"),
        (run.main, ["--study", "digits", "--frobnicate"], "--help explains every option"),
        (run.main, [], "required: --study; --help explains every option"),
        (run.main, ["--study", "digits", "--precision", "half"], "auto, float32 or bfloat16, not"),
        (run.main, ["--study", "mine"], "unknown study; did you mean mine.py?"),
        (run.main, ["--study", "mine.py"], "add study = Study("),
        (run.main, ["--study", "digits", "--enqueue", "lr=much"], "--enqueue: lr must be a number"),
        (steering.main, [], "required: command; --help explains every option"),
        (steering.main, ["stop"], "required: STUDY; --help explains every option"),
        (steering.main, ["stopp", "digits"], "invalid choice: 'stopp'"),
        (steering.main, ["cancel", "digits"], "required: --trial; --help explains every option"),
        (steering.main, ["copy", "digits", "../x"], "a study's name must be a valid folder name"),
        (steering.main, ["status", "digits"], "no such file in {folder}; name the database"),
        (report.main, ["--study", "digits"], "no such file in {folder}; name the database"),
        (reproduce.main, ["--study", "digits", "--trial", "best"], "no such file in {folder}"),
        (reproduce.main, ["--study", "digits", "--top", "3"], "no such file in {folder}"),
    ],
)
def test_mistyped_or_missing_options_are_refused(
    main: Callable[[], int],
    options: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search", *options])
    (tmp_path / "mine.py").touch()
    try:
        status: object = main()
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert complaint.format(folder=tmp_path) in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


WHOLE = {
    "--trials": "a whole number of 1 or more",
    "--seed": "a whole number from 0 to 9223372036854775807",
    "--threads": "a whole number from 1 to 1024",
    "--workers": "auto, or a whole number from 1 to 1024",
}


@pytest.mark.parametrize(
    "text", ["1_000", " 5 ", "５", "5.0", "0x10", "", "9" * 5000, "1e3", "-1", "1" * 30, "all"]
)
@pytest.mark.parametrize("option", WHOLE)
def test_a_whole_number_is_written_in_digits_and_within_its_bounds(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--study", "digits", f"{option}={text}"]
    if (option, text) == ("--trials", "1" * 30):
        assert run.parser().parse_args(words).trials == int(text)
        return
    with pytest.raises(SystemExit):
        run.parser().parse_args(words)
    error = capsys.readouterr().err
    assert error.endswith(f"argument {option}: {WHOLE[option]} is needed, not {text!r}\n")


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "1_0", " 1", "１", "0", "-1", "1s"])
def test_a_number_of_seconds_is_a_plain_one(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parser().parse_args(["--study", "digits", f"--timeout={text}"])
    assert f"a number of seconds above 0 is needed, not {text!r}" in capsys.readouterr().err


def test_numbers_at_their_ends_are_taken() -> None:
    words = "--seed 9223372036854775807 --workers 1024 --threads 1024 --timeout 1e300"
    taken = run.parser().parse_args(["--study", "digits", *words.split()])
    assert (taken.seed, taken.workers, taken.threads) == (2**63 - 1, 1024, 1024)
    assert taken.timeout == 1e300
    assert run.parser().parse_args(["--study", "digits"]).workers == 1
    assert run.parser().parse_args(["--study", "digits", "--workers", "auto"]).workers is None


def test_an_empty_variable_names_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_STORAGE", "")
    assert run.parser().parse_args(["--study", "digits"]).storage == DEFAULT_STORAGE
    monkeypatch.setenv("SEARCH_STORAGE", "sqlite:///other.db")
    assert run.parser().parse_args(["--study", "digits"]).storage == "sqlite:///other.db"


def test_a_python_that_lacks_the_packages_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", "--study", "digits"])
    monkeypatch.delitem(sys.modules, "search.study.study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna.distributions", None)
    for name in ("search.study.space", "studies.cifar", "studies.digits"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(search.study, "space", raising=False)
    assert run.main() == 2
    assert re.search(
        rf"package optuna.* is not installed for {re.escape(sys.executable)}; use the Python of",
        capsys.readouterr().err,
    )


def test_a_python_that_is_too_old_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(os.fspath(Path(search.__path__[0]) / "__init__.py"))
    assert end.value.code == 2
    assert "Python 3.11 or newer is needed, not " in capsys.readouterr().err
