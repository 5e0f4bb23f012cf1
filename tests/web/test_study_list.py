"""The dashboard's list of studies: what is running, and buttons that stop, pause and cancel it."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from statistics import fmean

import pytest
from playwright.sync_api import Browser, Page

from search.analysis.rerun_metrics import read
from tests.support.commands import Command, Run
from tests.support.databases import states
from tests.support.served import Served, served_dashboard

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("test_dashboard")]

STORAGE = "sqlite:///search.db"
ENDLESS = ("--study", "digits", "--images", 160, "--epochs", 500, "--trials", 30, "--workers", 2)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    yield context.new_page()
    context.close()


def _shows(page: Page, pattern: str) -> None:
    """Load the page again until its text matches."""
    deadline = time.monotonic() + 60
    while not re.search(pattern, page.inner_text("body")):
        assert time.monotonic() < deadline, page.inner_text("body")
        time.sleep(0.2)
        page.reload()


def test_a_search_is_canceled_paused_resumed_and_stopped_by_buttons(
    tmp_path: Path, page: Page
) -> None:
    with Run(tmp_path, "search.run", *ENDLESS) as run:
        run.until("EPOCH: 2")
        with served_dashboard(tmp_path, STORAGE, "--allow-edits") as served:
            page.goto(f"{served.url}dashboard/studies/1")
            page.get_by_role("link", name="Studies").click()
            _shows(
                page,
                r"digits\s+2 running; 0 of 30 trials, .*\s+Note.*\s+Stop all workers\s+Pause",
            )
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.click("tr:has-text('0 base') >> text=Cancel")
            _shows(page, r"2 running; 1 of 30 trials")
            assert "0 base" not in page.inner_text("body")
            page.click("text=Pause")
            _shows(
                page,
                r"paused, 2 interrupted; 1 of 30 trials, \d+ epochs\s+Note.*\s+Stop all workers\s+"
                "Resume",
            )
            page.click("text=Resume")
            _shows(page, r"2 running; 1 of 30 trials")
            page.click("text=Stop all workers")
            _shows(page, r"not running, 2 interrupted; 1 of 30 trials")
        assert run.end(60) == 0
        assert "Stopped by `python -m search stop`" in run.output
        assert "1 of 30 finished: 0 complete, 1 pruned (1 canceled); 0 failed" in run.output
    assert states(tmp_path)[0] == "PRUNED"


@pytest.fixture
def finished(tmp_path: Path, search: Command) -> Path:
    assert search("run", *ENDLESS[:3], 160, "--epochs", 1, "--trials", 2).returncode == 0
    return tmp_path


def _asked(served: Served, fields: str) -> tuple[int, str]:
    """Return status and text of the answer to a form."""
    asked = urllib.request.Request(f"{served.url}studies", data=fields.encode(), method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    with refused.value:
        return refused.value.code, unescape(refused.value.read().decode())


def test_a_read_only_dashboard_has_no_buttons_and_refuses_them(
    finished: Path, search: Command
) -> None:
    with served_dashboard(finished, STORAGE) as served:
        status, text = served.ask("studies")
        assert status == 200
        assert "done; 2 of 2 trials, 2 epochs; best test accuracy 0." in text
        assert "mean of re-runs" not in text
        which = "--trial", "best", "--repeats", 2, "--out", "runs.csv"
        again = search("reproduce", *ENDLESS[:2], *which)
        assert again.returncode == 0
        (runs,) = read(finished / "runs.csv").values()
        mean = fmean(run[-1].metrics["test_accuracy"] for run in runs.values())
        _, text = served.ask("studies")
        assert f"; mean of re-runs {mean:.4f} (2 fresh seeds)</p>" in text
        assert '<a href="/dashboard/studies/1/note">digits</a>' in text
        assert "Read-only: start the dashboard with --allow-edits" in text
        assert "<button" not in text
        assert "A worker looks" not in text
        status, text = _asked(served, "study=digits&do=stop")
        assert status == 403
        assert "this dashboard is read-only; --allow-edits allows edits" in text


def test_what_no_button_asks_for_is_refused(finished: Path) -> None:
    with served_dashboard(finished, STORAGE, "--allow-edits") as served:
        for fields, complaint in (
            ("study=digits&do=explode", "'explode' is not known"),
            ("study=none&do=stop", "has no such study; it has digits"),
            ("study=digits&do=cancel&trial=x", "'x' is not a trial's number"),
            ("study=digits&do=cancel&trial=99", "the study has no such trial"),
            ("study=digits&do=cancel&trial=1", "it is COMPLETE and will not go on"),
        ):
            status, text = _asked(served, fields)
            assert status == 400
            assert complaint in text
