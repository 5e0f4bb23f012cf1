"""A study that was copied, renamed or made by something else is whole, or refused by name."""

import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.study import StudyDirection
from sqlalchemy import create_engine, event, inspect, make_url, select, text

from search.artifacts.store import open_artifacts
from search.database import tables
from search.database.budgets import agree_on_budget
from search.database.database import Database
from search.database.identity import DEFINITION, identify, study_ref
from search.database.optuna_internals import study_id
from search.database.studies import join, stored_definition
from search.errors import UserError
from search.study.budget import Budget
from search.study.study import Study
from search.web.app import dashboard_app
from search.weights import find
from tests.support.commands import Command
from tests.support.process import Killed, Process
from tests.support.wsgi import renamed

MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
SEARCH = ("--study", "digits", "--images", 60, "--epochs", 1, "--trials", 7, "--threads", 1)
"""A search of two seconds: six variants and a sampled trial."""


def _files(folder: Path) -> set[Path]:
    return {path for path in (folder / "artifacts").rglob("*") if path.is_file()}


@pytest.fixture
def searched(search: Command, tmp_path: Path) -> Path:
    done = search("run", *SEARCH)
    assert done.returncode == 0, done.stderr
    assert len(_files(tmp_path)) == 6  # weights
    return tmp_path


def _epochs(folder: Path, name: str, file: str = "search.db") -> list[list[float]]:
    with closing(Database(f"sqlite:///{folder / file}", may_create=False)) as database:
        study = optuna.load_study(study_name=name, storage=database.optuna)
        found = database.epochs_of_study(study_ref(study).key)
        return [[e.metrics["test_accuracy"] for e in found.get(t.number, [])] for t in study.trials]


def test_a_renamed_study_is_whole_and_goes_on(searched: Path, search: Command) -> None:
    before, files = _epochs(searched, "digits"), _files(searched)
    with closing(Database(f"sqlite:///{searched / 'search.db'}")) as database:
        renamed(database, "digits", "numbers")
    weights = find(f"sqlite:///{searched / 'search.db'}", "numbers", "best",
                   artifacts=searched / "artifacts")  # fmt: skip
    assert weights in files
    done = search("run", *SEARCH, "--name", "numbers", "--trials", 8)
    assert done.returncode == 0, done.stderr
    assert files <= _files(searched)
    after = _epochs(searched, "numbers")
    assert after[:-1] == before
    assert len(after[-1]) == 1
    done = search("reproduce", "--study", "digits", "--name", "numbers", "--trial", "0",
                  "--threads", 1)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_study_renamed_in_the_database_is_whole(searched: Path, search: Command) -> None:
    before, files = _epochs(searched, "digits"), _files(searched)
    with closing(sqlite3.connect(searched / "search.db")) as connection, connection:
        connection.execute("UPDATE studies SET study_name = 'numbers'")
    done = search("run", *SEARCH, "--name", "numbers")
    assert done.returncode == 0, done.stderr
    assert (_epochs(searched, "numbers"), _files(searched)) == (before, files)


@pytest.mark.parametrize("to", ["sqlite:///other.db", "sqlite:///search.db"])
def test_a_copied_study_is_refused_by_every_command(
    searched: Path, search: Command, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.chdir(searched)
    before, files = _epochs(searched, "digits"), _files(searched)
    optuna.copy_study(
        from_study_name="digits",
        from_storage="sqlite:///search.db",
        to_storage=to,
        to_study_name="copied",
    )
    options = ("--study", "digits", "--name", "copied", "--storage", to)
    for command in (
        ("run", *SEARCH, "--name", "copied", "--storage", to),
        ("report", *options, "--format", "json"),
        ("reproduce", *options, "--trial", "best"),
    ):
        done = search(*command)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "the study of this name" in done.stderr
        assert "cop" in done.stderr.partition("the study of this name")[2]
    with pytest.raises(UserError, match="cop"):
        find(to, "copied", "best", artifacts=searched / "artifacts")
    assert (_epochs(searched, "digits"), _files(searched)) == (before, files)


def test_deleting_a_copy_in_the_dashboard_keeps_the_originals_files(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(searched)
    files = _files(searched)
    for to in ("sqlite:///other.db", "sqlite:///search.db"):
        optuna.copy_study(
            from_study_name="digits",
            from_storage="sqlite:///search.db",
            to_storage=to,
            to_study_name="copied",
        )
        with closing(Database(to, may_create=False)) as database:
            app = dashboard_app(database, open_artifacts("artifacts").store)
            study_id = database.optuna.get_study_id_from_name("copied")
            environ = {"PATH_INFO": f"/api/studies/{study_id}", "REQUEST_METHOD": "DELETE"}
            setup_testing_defaults(environ)
            environ["CONTENT_TYPE"] = "application/json"
            list(app(environ, lambda status, headers, error=None: None))  # type: ignore[arg-type]
            names = [study.study_name for study in database.optuna.get_all_studies()]
            assert "copied" not in names
        assert _files(searched) == files


def test_a_copied_database_leaves_the_originals_files(searched: Path, search: Command) -> None:
    files, before = _files(searched), _epochs(searched, "digits")
    shutil.copy(searched / "search.db", searched / "copy.db")
    # In the copy, better trials push the original's out of the best five.
    better = ("--epochs", 1, "--trials", 12, "--storage", "sqlite:///copy.db")
    done = search("run", *SEARCH[:4], *better, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "is a copy, or was moved" in done.stderr
    assert files <= _files(searched)
    done = search("run", *SEARCH, "--trials", 8)
    assert done.returncode == 0, done.stderr
    assert _epochs(searched, "digits")[:7] == before
    assert _epochs(searched, "digits", "copy.db")[:7] == before
    for file in ("search.db", "copy.db"):
        url = f"sqlite:///{searched / file}"
        assert find(url, "digits", "best", artifacts=searched / "artifacts").is_file()
    done = search("run", *SEARCH[:4], *better, "--threads", 1)
    assert "is a copy" not in done.stderr  # it is at home by now


def _state(url: str) -> object:
    """All that is in a database, table by table."""
    engine = create_engine(make_url(url))
    with engine.connect() as connection:
        found = {
            name: connection.execute(text(f"SELECT * FROM {name}")).all()
            for name in sorted(inspect(connection).get_table_names())
        }
    engine.dispose()
    return found


@pytest.mark.parametrize("directions", [[MINIMIZE], [MAXIMIZE], [MAXIMIZE, MINIMIZE]])
def test_a_study_that_optuna_made_is_refused_before_anything_is_written(
    url: str, search: Command, directions: list[StudyDirection]
) -> None:
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name="digits", storage=storage, directions=directions)
    storage.engine.dispose()
    before = _state(url)
    for command in (
        ("run", *SEARCH),
        ("report", "--study", "digits"),
        ("reproduce", "--study", "digits", "--trial", "best"),
    ):
        done = search(*command, "--storage", url)
        assert done.returncode == 2
        assert "--name digits: the study of this name was not made by this service" in done.stderr
        assert done.stderr.count("\n") == 1
    for name in ("status", "stop", "export"):  # which have no option --name
        done = search("search.__main__", name, "digits", "--storage", url)
        assert done.returncode == 2
        assert done.stderr.endswith("digits: the study of this name was not made by this service\n")
        assert "--name" not in done.stderr
    assert _state(url) == before


def test_a_file_of_optunas_is_not_touched_to_the_last_byte(search: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name="digits", storage=storage)
    storage.engine.dispose()
    before = (tmp_path / "search.db").read_bytes()
    assert search("run", *SEARCH).returncode == 2
    assert (tmp_path / "search.db").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"search.db", "data"}


@pytest.mark.parametrize("statement", range(1, 14))
def test_a_study_whose_creation_was_cut_off_is_created_to_its_end(
    url: str, study: Study, statement: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Database(url)
    writes = 0

    def kill(connection: object, cursor: object, sql: str, *others: object) -> None:
        nonlocal writes
        writes += sql.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))
        if writes == statement:
            raise Killed

    event.listen(first.engine, "before_cursor_execute", kill)
    with suppress(Killed):
        join(first, study, data_digest="x")
    event.remove(first.engine, "before_cursor_execute", kill)
    first.close()
    with closing(Database(url)) as database:
        joined = join(database, study, data_digest="x")
        assert [t.user_attrs["variant"] for t in joined.trials] == ["question-1", "question-3"]
        assert joined.user_attrs[DEFINITION] == study.definition("x")
        with database.engine.connect() as connection:
            found = identify(connection, study.name)
            rows = connection.execute(select(tables.studies)).all()
        assert found is not None
        assert (found.is_created, found.ref) == (True, study_ref(joined))
        assert [row.study_id for row in rows] == [study_id(joined)]


def test_the_metric_has_its_name_in_optuna(database: Database, study: Study) -> None:
    assert join(database, study, data_digest="x").metric_names == ["test_accuracy"]
    held_out = dataclasses.replace(study, name="held-out").select("validation")
    assert join(database, held_out, data_digest="x").metric_names == ["validation_accuracy"]


def test_a_copy_whose_original_is_gone_must_have_its_trials(
    url: str, study: Study, tmp_path: Path
) -> None:
    process = Process(url, study, tmp_path)
    process.run(process.claim())
    storage = process.database.optuna
    optuna.copy_study(
        from_study_name="small", from_storage=storage, to_storage=storage, to_study_name="other"
    )
    optuna.delete_study(study_name="small", storage=storage)
    assert stored_definition(process.database, "other") == study.definition(
        process.machine.session.digest, "float32"
    )
    with process.database.engine.begin() as connection:
        connection.execute(text("UPDATE trial_intermediate_values SET intermediate_value = 0.125"))
    with pytest.raises(UserError, match="a copy of small, which is gone, and its trials are not"):
        stored_definition(process.database, "other")
    process.close()


def test_tables_of_another_version_are_refused_and_left_alone(url: str) -> None:
    Database(url).close()
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE search_schema SET version = 99"))
    before = _state(url)
    with pytest.raises(UserError, match="of version 99 of this service, and version 5 is needed"):
        Database(url)
    assert _state(url) == before
    with engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE {table.name}"))
        connection.execute(text("CREATE TABLE search_epochs (trial_id INTEGER, number INTEGER)"))
    engine.dispose()
    with pytest.raises(UserError, match="of version 1 of this service"):
        Database(url)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """A database of Optuna's with a study in it."""
    url = f"sqlite:///{tmp_path / 'plain.db'}"
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name="mine", storage=storage)
    storage.engine.dispose()
    return url


def test_looking_adds_no_tables(plain: str, search: Command) -> None:
    with closing(Database(plain, may_create=False)) as database:
        app = dashboard_app(database, open_artifacts("artifacts").store)
        environ = {"PATH_INFO": "/api/studies/1", "REQUEST_METHOD": "GET"}
        setup_testing_defaults(environ)
        body = b"".join(app(environ, lambda status, headers, error=None: None))  # type: ignore[arg-type]
        assert json.loads(body)["name"] == "mine"
    assert search("report", "--study", "digits", "--storage", plain).returncode == 2
    engine = create_engine(plain)
    assert not [n for n in inspect(engine).get_table_names() if n.startswith("search_")]
    engine.dispose()


@pytest.mark.parametrize(
    "changed",
    [[1], {"trials": "many", "of_file": {"trials": 6}}, {"trials": -3, "of_file": {"trials": 6}}],
)
def test_a_budget_that_is_none_stands_back_behind_the_study_files(
    database: Database, study: Study, changed: object
) -> None:
    joined = join(database, study, data_digest="x")
    joined.set_user_attr("budget", changed)
    six = Budget(trials=6)
    agreed = agree_on_budget(database, joined, of_file=six, asked={}, has_enqueued=False)
    assert agreed == six


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_has_the_names_that_it_can_have(
    postgresql: str, study: Study, encoding: str
) -> None:
    name = f"of_{encoding.lower()}"
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        made = f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        connection.execute(text(made))
    engine.dispose()
    url = make_url(postgresql).set(database=name).render_as_string(hide_password=False)
    snow = dataclasses.replace(study, name="snöw ☃")
    with closing(Database(url)) as database:
        join(database, study, data_digest="x")
        if encoding == "LATIN1":
            with pytest.raises(UserError, match="study snöw ☃: the database's encoding"):
                join(database, snow, data_digest="x")
        else:
            assert join(database, snow, data_digest="x").study_name == snow.name
        assert database.optuna.get_study_id_from_name(study.name)
