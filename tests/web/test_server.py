"""PostgreSQL servers, databases and roles as administrators set them up."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import create_engine, make_url, text

from search.database.database import Database
from search.database.studies import join
from search.errors import UserError
from search.study.study import Study
from tests.support.commands import Command
from tests.support.databases import PASSWORD

pytestmark = pytest.mark.parametrize("url", ["postgresql"], indirect=True)

SEARCH = ("--study", "digits", "--images", 60, "--epochs", 1, "--trials", 7, "--threads", 1)
_roles = (f"role_{number}" for number in itertools.count())

Role = Callable[..., str]


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(make_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def role(url: str) -> Iterator[Role]:
    """Make a role that may read and write what is in the database, and create nothing unless it
    owns the schema; return the URL that it connects with."""
    made = []

    def make(*settings: str, owner: bool = False) -> str:
        made.append(name := next(_roles))
        _execute(url, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        _execute(url, *(f"ALTER ROLE {name} {setting}" for setting in settings))
        if owner:
            _execute(url, f"GRANT ALL ON SCHEMA public TO {name}")
        else:
            _execute(
                url,
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}",
                f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}",
            )
        return make_url(url).set(username=name).render_as_string(hide_password=False)

    yield make
    for name in made:
        _execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_role_that_does_not_own_the_tables_joins(url: str, study: Study, role: Role) -> None:
    with closing(Database(url)) as database:
        before = join(database, study, data_digest="x").trials
    with closing(Database(role())) as database:
        assert [t.number for t in join(database, study, data_digest="x").trials] == [
            t.number for t in before
        ]


def test_a_role_that_may_not_write_is_refused_in_one_line(
    url: str, search: Command, role: Role
) -> None:
    assert search("run", *SEARCH, "--storage", url).returncode == 0
    reader = role()
    _execute(url, f"REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public FROM "
                  f"{make_url(reader).username}")  # fmt: skip
    done = search("report", "--study", "digits", "--format", "json", "--storage", reader)
    assert (done.returncode, done.stderr) == (0, "")
    done = search("run", *SEARCH, "--trials", 8, "--storage", reader)
    assert done.returncode == 2
    assert "permission denied" in done.stderr
    assert done.stderr.count("\n") == 1
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        "SET default_transaction_isolation = 'serializable'",
        "SET default_transaction_isolation = 'repeatable read'",
        "SET transaction_timeout = '500ms'",
        "SET timezone = 'Asia/Kathmandu'",
        "SET client_encoding = 'LATIN1'",
        "SET extra_float_digits = -15",
        "CONNECTION LIMIT 2",
    ],
)
def test_a_search_works_whatever_the_role_is_set_to(
    search: Command, role: Role, setting: str
) -> None:
    odd = role(setting, owner=True)
    done = search("run", *SEARCH, "--storage", odd)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 of 7 finished" in done.stdout


def test_a_lock_is_waited_for_whatever_the_limits_are(url: str, role: Role) -> None:
    Database(url).close()
    odd = role("SET statement_timeout = '250ms'", "SET lock_timeout = '250ms'")
    with closing(Database(url)) as holder, closing(Database(odd)) as waiting:
        held, entered = threading.Event(), threading.Event()

        def wait() -> None:
            held.wait(20)
            with waiting.lock("study"):
                entered.set()

        thread = threading.Thread(target=wait)
        thread.start()
        with holder.lock("study"):
            held.set()
            assert not entered.wait(0.5)
        assert entered.wait(20)
        thread.join()


def test_a_search_path_without_a_schema_is_refused_and_another_schema_is_used(
    url: str, search: Command, role: Role
) -> None:
    lost = role("SET search_path = nowhere")
    with pytest.raises(UserError, match="the search_path of this role names no schema"):
        Database(lost)
    _execute(url, "CREATE SCHEMA app", "CREATE TABLE public.flowers (name TEXT)")
    name = make_url(lost).username
    _execute(url, f"GRANT ALL ON SCHEMA app TO {name}")
    _execute(url, f"ALTER ROLE {name} SET search_path = app, public")
    done = search("run", *SEARCH, "--storage", lost)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_role_with_an_empty_schema_of_its_own_joins_what_it_can_see(
    url: str, study: Study, role: Role
) -> None:
    with closing(Database(url)) as database:
        join(database, study, data_digest="x")
    other = role()
    name = make_url(other).username
    _execute(url, f"CREATE SCHEMA {name} AUTHORIZATION {name}")  # first in its search_path
    with closing(Database(other)) as database:
        assert len(join(database, study, data_digest="x").trials) == 2


def test_no_statement_is_prepared_since_a_pooler_gives_it_to_another_session(url: str) -> None:
    with closing(Database(url)) as database, database.engine.connect() as connection:
        for _ in range(20):
            connection.execute(text("SELECT count(*) FROM search_epochs"))
        prepared = connection.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
    assert prepared == 0


def test_too_few_connections_are_told_in_one_line(search: Command, role: Role) -> None:
    none = role("CONNECTION LIMIT 0", owner=True)
    done = search("run", *SEARCH, "--storage", none)
    assert done.returncode == 2
    assert "too many connections for role" in done.stderr
    assert done.stderr.count("\n") == 1
