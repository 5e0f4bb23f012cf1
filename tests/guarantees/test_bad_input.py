"""Bad input that is foreseen gets one line and exit status 2. A password is masked, and refused in
a URL's query.

Each command's own options are tested with it.
"""

import shlex
from pathlib import Path

import pytest
from sqlalchemy import make_url

from search.database.database import Database
from search.database.url import check
from search.errors import UserError
from tests.support.commands import QUICK, Command
from tests.support.databases import PASSWORD


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
            "--images 5000: there are 1438 training images",
        ),
        (["--study", "digits", "--timeout", "nan"], "--timeout: a number of seconds above 0"),
        (["--study", "digits", "--threads", "99999"], "--threads: a whole number from 1 to 1024"),
        (["--study", "digits", "--name", "../x"], "folder name without /, not '../x'"),
        (["--study", "digits", "--name", "x" * 101], "at most 100 bytes, not 101"),
        (["--study", "digits", "--device", "cuda:300"], "give auto, cuda, cuda:1, mps or cpu"),
        (["--study", "digits", "--storage", "sqlite:///s.db?timeout=x"], "takes nothing after a ?"),
        (["--study", "cifar", "--images", "50001"], "there are 50000 training images"),
        (
            ["--study", "digits", "--seed", "-1"],
            "--seed: a whole number from 0 to 9223372036854775807",
        ),
        (["--study", "digits", "--trial", "3"], "unrecognized arguments: --trial"),
        (["--study", "digits", "--select", "train"], "--select: invalid choice: 'train'"),
        (
            ["--study", "digits", "--device", "cuda:7"],
            "this machine has no such device",
        ),
        (["--study", "digits", "--device", "gpu"], "give auto, cuda, cuda:1, mps or cpu"),
        (["--study", "digits", "--enqueue", "momentum=1"], "unknown parameter 'momentum'"),
        (["--study", "digits", "--enqueue", "lr=7"], "lr must be a number from 0.0001 to"),
        (["--study", "digits", "--storage", "redis://h"], "SQLite and PostgreSQL are known"),
        (["--study", "digits", "--storage", "postgresql://me:hush@127.0.0.1:9/x"], "refused"),
        (["--study", "digits", "--storage", "sqlite:///none/s.db"], "there is no folder none"),
        (["--study", "digits", "--storage", "sqlite:///text"], "file is not a database"),
        (["--study", "digits", "--artifacts", "text"], "--artifacts text: "),
        (["--study", "cifar", "--data", "text"], "--data text: "),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
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


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("search.db", "--storage, or SEARCH_STORAGE, is a URL such as .*, not 'search.db'"),
        ("postgres//me:hush@host/db", "is a URL such as .*, not that"),
        ("mysql://root:hush@host/db", "SQLite and PostgreSQL are known, not 'mysql'"),
        ("postgresql://127.0.0.1:9/db?user=me&password=hush", "a password stands before the host"),
        ("postgresql://me:a@hush@127.0.0.1:9/db", "a password stands before the host"),
        ("postgresql://me:hush@host:port/db", "is a URL such as .*, not that"),
        ("postgresql://me:hush@127.0.0.1:9/db?connect_timeout=soon", "(?i)invalid integer|soon"),
        ("sqlite:///search.db?timeout=abc", "a SQLite URL takes nothing after a ?"),
        ("sqlite://", "in memory is gone"),
        ("sqlite:///:memory:", "in memory is gone"),
        ("sqlite:////nowhere/at/all/search.db", "there is no folder /nowhere/at/all"),
        ("postgresql://me:hush@127.0.0.1:9/db", "(?i)connection.*refused"),
        ("postgresql://me:hush@no-such-host.invalid/db", "no-such-host"),
    ],
)
def test_a_database_that_cannot_be_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        check(url)
    assert "hush" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_that_cannot_be_used_is_refused(
    search: Command, bucket: str, tmp_path: Path
) -> None:
    for name in ("run", "reproduce"):
        done = search(name, "--study", "digits", "--artifacts", "s3://no-such-bucket")
        assert done.returncode == 2
        assert done.stderr.startswith(f"python -m search.{name}: error: --artifacts s3://no-such-")
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def test_a_password_is_in_no_text_of_the_database(postgresql: str) -> None:
    database = Database(postgresql)
    assert PASSWORD not in str(database) + repr(database.url)
    assert "***" in str(database)
    database.close()


def test_postgresql_works_by_its_url_alone_and_its_password_stays_secret(
    search: Command, url: str
) -> None:
    done = search("run", *QUICK[:-1], 2, "--storage", url, "--artifacts", "my files")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 finished" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("View it with: "))
    if url.startswith("sqlite"):
        options = f"--artifacts 'my files' --storage {url}"
        assert line == f"View it with: python -m search.dashboard {options}"
    else:
        masked = shlex.quote(make_url(url).render_as_string(hide_password=True))
        command = f"SEARCH_STORAGE={masked} python -m search.dashboard --artifacts 'my files'"
        assert line == f"View it with: {command}"
