"""A database that goes away is waited for: a cut connection costs the epoch that was being trained,
and no figure.
"""

import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from search.database.database import Database
from search.database.outage import is_outage
from search.errors import UserError
from tests.support.process import Start


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_connections_cut_at_any_statement_cost_no_figure(
    start: Start,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("search.worker.worker.WAIT_SECONDS", 0.05)
    whole = start(url=f"sqlite:///{tmp_path / 'undisturbed.db'}")
    whole.work()
    process = start()
    cutter = create_engine(url, poolclass=NullPool)
    seed = random.randrange(10**6)
    print(f"random seed {seed}")  # shown if the test fails
    draw = random.Random(seed)
    statements, cuts = itertools.count(1), [draw.randint(20, 120)]

    def cut(connection: Connection, *rest: object) -> None:
        number = next(statements)
        if number == cuts[-1]:
            backend = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            with cutter.connect() as other:
                other.execute(text(f"SELECT pg_terminate_backend({backend}, 5000)"))
            cuts.append(number + draw.randint(20, 120))

    event.listen(process.database.engine, "before_cursor_execute", cut)
    process.work()
    event.remove(process.database.engine, "before_cursor_execute", cut)
    assert len(cuts) > 5
    assert process.figures() == whole.figures()
    assert [t.state for t in process.trials] == [t.state for t in whole.trials]
    outages = [text for text in caplog.messages if text.startswith("the database ")]
    assert [text.split()[2] for text in outages] == ["does", "answers"] * (len(outages) // 2)
    assert outages


def test_a_locked_file_is_an_outage_and_a_missing_column_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.database.url.BUSY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'search.db'}"
    database = Database(url)
    with database.engine.connect() as connection:
        with pytest.raises(OperationalError, match="no such column") as missing:
            connection.execute(text("SELECT absent FROM search_epochs"))
        assert not is_outage(missing.value)
    database.close()
    holder = sqlite3.connect(tmp_path / "search.db")
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="database is locked") as locked:
        Database(url)
    holder.close()
    assert is_outage(locked.value)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_process_stopped_with_the_lock_loses_it(url: str) -> None:
    code = (
        "import os, signal, sys\nfrom search.database import database as storage\n"
        "from search.database.outage import is_outage\nstorage.LOCK_SECONDS = 1\n"
        "database = storage.Database(sys.argv[1])\n"
        "try:\n"
        " with database.lock('x') as connection:\n"
        "  os.kill(os.getpid(), signal.SIGSTOP)\n"
        "  connection.exec_driver_sql('SELECT 1')\n"
        "except Exception as error:\n"
        " sys.exit(3 if is_outage(error) else 1)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True)
    while psutil.Process(holder.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    database = Database(url)
    with database.lock("x"):
        holder.send_signal(signal.SIGCONT)
        _, errors = holder.communicate(timeout=120)
    assert holder.returncode == 3, errors
    database.close()
