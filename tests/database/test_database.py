import itertools
import math
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from sqlalchemy import create_engine, make_url, select, text

from search.database import leases
from search.database.database import Database
from search.database.leases import Claim, Lease, LeaseLost
from search.database.liveness import ProcessIdentity
from search.database.tables import clock
from search.database.url import check, explained
from search.errors import UserError
from search.study.metrics import Epoch
from tests.support.databases import PASSWORD
from tests.support.epochs import epoch


def _epoch(number: int, **figures: float) -> Epoch:
    return epoch(number, batch_loss=math.pi, seconds=1 / 3, **{"test_accuracy": 0.5} | figures)


STUDY = "0123456789abcdef"
"""A study's key."""


def _claim(worker: str, trial: int = 7) -> Claim:
    return Claim(study_key=STUDY, trial_id=trial, number=trial, worker=worker, until=10)


def _lease(database: Database, worker: str, *, trial: int = 7, seconds: float = 60) -> Claim:
    claim, process = _claim(worker, trial), ProcessIdentity.current()
    with database.lock("study") as connection:
        leases.grant(connection, claim, process=process, seconds=seconds)
    return claim


def _leases(database: Database) -> dict[int, Lease]:
    with database.engine.connect() as connection:
        return leases.leases(connection, STUDY)


def test_an_epochs_figures_come_back_to_the_last_bit(database: Database) -> None:
    claim = _lease(database, "me")
    epochs = [
        _epoch(1, test_loss=1e308, test_accuracy=0.1 + 0.2),
        _epoch(2, train_loss=2 / 3, train_accuracy=1.0, validation_loss=5e-300,
               validation_accuracy=0.0),
    ]  # fmt: skip
    for one in epochs:
        database.record(claim, one, "0" * 64, score=0.5)
    assert database.epochs(STUDY, 7) == epochs
    assert database.epochs(STUDY, 8) == []
    assert database.checkpoint_sha256(claim, 1) == "0" * 64


def test_an_epoch_that_is_recorded_stays_as_it_is(database: Database) -> None:
    claim = _lease(database, "me")
    database.record(claim, _epoch(1, test_loss=1.0), None, score=0.5)
    database.record(claim, _epoch(1, test_loss=2.0), "f" * 64, score=0.5)
    assert database.epochs(STUDY, 7) == [_epoch(1, test_loss=1.0)]


def test_without_the_lease_nothing_is_recorded(database: Database) -> None:
    with pytest.raises(LeaseLost):
        database.record(_claim("me"), _epoch(1), None, score=0.5)
    claim = _lease(database, "me")
    _lease(database, "another")
    with pytest.raises(LeaseLost, match="no longer leased to me"):
        database.record(claim, _epoch(1), None, score=0.5)
    assert database.epochs(STUDY, 7) == []


def test_the_epochs_of_a_study_come_by_trial_and_in_order(database: Database) -> None:
    claims = {trial: _lease(database, "me", trial=trial) for trial in (7, 8, 9)}
    for trial, number in ((8, 2), (7, 1), (8, 1), (9, 1)):
        database.record(claims[trial], _epoch(number), None, score=0.5)
    found = database.epochs_of_study(STUDY, [8, 7])
    assert found == {7: [_epoch(1)], 8: [_epoch(1), _epoch(2)]}
    assert set(database.epochs_of_study(STUDY)) == {7, 8, 9}
    assert database.epochs_of_study("another") == {}


def test_a_lease_expires_by_the_databases_clock(database: Database) -> None:
    claim = _lease(database, "me", seconds=0.2)
    assert not _leases(database)[7].expired
    time.sleep(0.3)
    assert _leases(database)[7].expired
    renew = partial(leases.renew, database.engine, claim, seconds=60.0, batches_per_second=12.5)
    assert renew()
    lease = _leases(database)[7]
    assert (lease.expired, lease.batches_per_second) == (False, 12.5)
    leases.release(database.engine, _claim("another"))
    assert 7 in _leases(database)
    leases.release(database.engine, claim)
    assert _leases(database) == {}
    assert not renew()


def test_the_databases_clock_is_in_seconds(database: Database) -> None:
    with database.engine.connect() as connection:
        first = connection.scalar(select(clock()))
    assert first == pytest.approx(time.time(), abs=2)


def test_a_write_under_the_lock_is_whole_or_not_there(database: Database) -> None:
    with suppress(InterruptedError), database.lock("study") as connection:
        leases.grant(connection, _claim("me"), process=ProcessIdentity.current(), seconds=60)
        raise InterruptedError
    assert _leases(database) == {}


COUNT = """
import sys, time
from pathlib import Path
from search.database.database import Database
database = Database(sys.argv[1])
count = Path(sys.argv[2])
for _ in range(20):
    with database.lock("count"):
        number = int(count.read_text())
        time.sleep(0.001)
        count.write_text(str(number + 1))
"""


@pytest.mark.slow
def test_processes_open_an_empty_database_together_and_lock_each_other_out(
    url: str, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", COUNT, url, str(count)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert count.read_text() == "160"


@pytest.mark.slow
def test_a_killed_process_gives_the_lock_back(url: str) -> None:
    code = (
        "import sys, time\nfrom search.database.database import Database\n"
        "with Database(sys.argv[1]).lock('x'):\n print('held', flush=True)\n time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    database = Database(url)
    with database.lock("x"):
        pass
    database.close()


def test_sqlite_keeps_a_write_ahead_log(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    with database.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    database.close()


def test_a_full_disk_is_named_with_the_way_out() -> None:
    error = sqlite3.OperationalError("database or disk is full")
    line = explained(make_url("sqlite:///search.db"), error)
    assert line.endswith("disk is full; free some space, or name a file on another disk")


@pytest.mark.parametrize(
    ("free", "cause"),
    [
        (16384, ": the disk has 16 KiB left; free some space, or name a file on another disk"),
        (1 << 30, ""),
    ],
)
def test_an_error_of_a_full_disk_is_named_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, cause: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    error = sqlite3.OperationalError("disk I/O error")
    line = explained(make_url(f"sqlite:///{tmp_path / 'search.db'}"), error)
    assert line.endswith(f": disk I/O error{cause}")


@pytest.mark.parametrize("shut", ["search.db", ""])
def test_a_file_that_may_only_be_read_is_refused_with_a_readers_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shut: str
) -> None:
    file = tmp_path / "search.db"
    file.touch()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / shut)
    with pytest.raises(UserError, match=r"even to read; .* a copy of search\.db will") as refused:
        check(f"sqlite:///{file}")
    assert f": {tmp_path / shut} is not writable" in str(refused.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to have a header" * 10)
    with pytest.raises(UserError, match="file is not a database"):
        Database(f"sqlite:///{path}")
    assert path.read_text().startswith("not a database")
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.db"]


@pytest.mark.parametrize("others", [[], ["authors"], ["version_info"], ["trials", "trial_values"]])
def test_tables_named_as_optunas_do_not_make_a_database_optunas(
    url: str, others: list[str]
) -> None:
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        for name in ("studies", *others):
            connection.execute(text(f"CREATE TABLE {name} (id INTEGER, title TEXT)"))
    with pytest.raises(UserError, match="holds other tables"):
        Database(url)
    assert _tables(url) == {"studies", *others}
    engine.dispose()


def test_a_database_of_something_else_is_refused_and_left_alone(url: str) -> None:
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE flowers (name TEXT)"))
    with pytest.raises(UserError, match=r"holds other tables \(flowers") as error:
        Database(url)
    assert PASSWORD not in str(error.value)
    assert _tables(url) == {"flowers"}
    engine.dispose()


def test_a_database_of_another_schema_is_refused_and_left_alone(url: str) -> None:
    Database(url).close()
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v2.4.0.a'"))
        connection.execute(text("DROP TABLE search_epochs"))
        connection.execute(text("DROP TABLE trial_heartbeats"))
    before = _tables(url)
    with pytest.raises(UserError, match=r"of schema v2.4.0.a, and this Optuna needs v"):
        Database(url)
    assert _tables(url) == before
    engine.dispose()


def test_optunas_own_database_is_taken_over_with_its_studies(url: str) -> None:
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name="mine", storage=storage)
    storage.engine.dispose()
    database = Database(url)
    assert [study.study_name for study in database.optuna.get_all_studies()] == ["mine"]
    database.close()


def test_a_creation_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    whole = f"sqlite:///{tmp_path / 'whole.db'}"
    Database(whole).close()
    tables = _tables(whole)
    connection = sqlite3.connect(tmp_path / "whole.db")
    rows = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    statements = [statement for (statement,) in rows]
    connection.close()
    for done in range(1, len(statements), 3):
        part = tmp_path / f"part{done}.db"
        connection = sqlite3.connect(part)
        for statement in statements[:done]:
            connection.execute(statement)
        connection.close()
        Database(f"sqlite:///{part}").close()
        assert _tables(f"sqlite:///{part}") == tables


def _tables(url: str) -> set[str]:
    from sqlalchemy import inspect

    engine = create_engine(make_url(url))
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


TWICE = """
import sys, time
from search.database.database import Database
with Database(sys.argv[1]).lock("study"):
    print(time.monotonic(), end=" ", flush=True)
    time.sleep(0.3)
    print(time.monotonic(), flush=True)
"""


@pytest.mark.slow
def test_all_names_of_a_file_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link.db").symlink_to("real/search.db")
    names = ("real/search.db", "./real/../real/search.db", "folder/search.db", "link.db",
             str(tmp_path / "real" / "search.db"))  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWICE, f"sqlite:///{name}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    held = []
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        held.append(tuple(map(float, output.split())))
    for (_, left), (entered, _) in itertools.pairwise(sorted(held)):
        assert left <= entered
    assert {path.name for path in (tmp_path / "real").iterdir()} == {"search.db", "search.db.lock"}


def test_a_name_that_sqlites_log_would_not_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    Database(url).close()
    (tmp_path / "second.db").hardlink_to(tmp_path / "search.db")
    for name in ("search.db", "second.db"):
        with pytest.raises(UserError, match=r"has 2 names .hard links., which damages"):
            check(f"sqlite:///{tmp_path / name}")
    (tmp_path / "second.db").unlink()
    check(url)
    mounts = tmp_path / "mounts"  # as of `docker run -v …/search.db:/…/search.db`
    mounts.write_text(f"36 35 8:1 / {tmp_path / 'search.db'} rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr("search.database.file_system.MOUNTS", mounts)
    with pytest.raises(UserError, match=r"a file that is mounted by itself.*; mount its folder"):
        check(url)


def test_the_lock_is_open_to_whoever_may_write_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    Database(url).close()
    (tmp_path / "search.db").chmod(0o660)
    Database(url).close()
    assert (tmp_path / "search.db.lock").stat().st_mode & 0o777 == 0o660
