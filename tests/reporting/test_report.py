"""The report, as a user makes it and looks at it in a browser."""

import csv
import io
import itertools
import json
import re
import sqlite3
import statistics
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from search.analysis.rerun_metrics import read
from search.database.database import Database
from search.study.study_file import load
from tests.support.commands import Command, run_command
from tests.support.made_up import made_up

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("test_report")]

ROOT = Path(__file__).parents[2]
QUICK = ("--study", "digits", "--threads", 1)
EPOCHS = (
    "search_epochs JOIN search_studies USING (study_key) "
    "JOIN trials ON trials.study_id = search_studies.study_id AND trials.number = trial"
)
HOSTILE = '</script><img src=x onerror="document.title=1"><script>document.title=1</script>|a'


def _run(folder: Path, name: str, *options: object) -> str:
    done = run_command(folder, name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of real trials, one of which says something hostile, its best two run again."""
    made = tmp_path_factory.mktemp("report")
    _run(made, "run", *QUICK, "--images", 160, "--epochs", 3, "--trials", 34)
    _run(made, "reproduce", *QUICK, "--top", 2, "--repeats", 2, "--out", "runs.csv")
    with sqlite3.connect(made / "search.db") as connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'reason'",
            [json.dumps(HOSTILE)],
        )
        ((last,),) = connection.execute(
            "SELECT max(trial_id) FROM trials JOIN studies USING (study_id) "
            "WHERE state = 'PRUNED' AND study_name = 'digits'"
        )
        connection.execute("DELETE FROM trial_values WHERE trial_id = ?", [last])
        connection.execute("UPDATE trials SET state = 'FAIL' WHERE trial_id = ?", [last])
    _run(made, "report", "--study", "digits")
    return made


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    yield opened
    opened.close()


@pytest.fixture
def said() -> list[str]:
    """What a page complained of, and what it asked for."""
    return []


@pytest.fixture
def page(context: BrowserContext, folder: Path, said: list[str]) -> Page:
    opened = context.new_page()
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url))
    opened.goto((folder / "report-digits.html").as_uri())
    opened.wait_for_function("document.body.dataset.drawn")
    return opened


def _made(folder: Path, form: str) -> str:
    return _run(folder, "report", "--study", "digits", "--format", form, "--out", "-")


def _rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "search.db") as connection:
        return connection.execute(query).fetchall()


def _ranked(folder: Path) -> list[tuple[object, ...]]:
    """Number and accuracy of the complete trials, best first, in SQL of its own."""
    return _rows(
        folder,
        "SELECT number, value FROM trials JOIN trial_values USING (trial_id) "
        "JOIN studies USING (study_id) WHERE study_name = 'digits' AND state = 'COMPLETE' "
        "ORDER BY value DESC, number",
    )


DRAWN = """charts => charts.map(chart => {
    const marks = chart.querySelectorAll('.trace path').length;
    const box = chart.querySelector('.main-svg').getBoundingClientRect();
    return [marks, box.width, box.height];
})"""


def test_every_chart_is_drawn_without_an_error_and_without_a_request(
    page: Page, folder: Path, said: list[str]
) -> None:
    assert said == [(folder / "report-digits.html").as_uri()]
    page.click("summary")
    page.wait_for_function("document.body.dataset.unfolded")
    drawn = page.eval_on_selector_all(".chart", DRAWN)
    # Nine slices, and four: history, importances, parallel coordinates, learning curves; and two
    # for each variant, which are folded.
    assert len(drawn) == 9 + 4 + 6 * 2
    assert all(marks > 0 and width > 200 and height > 200 for marks, width, height in drawn)


def _column(page: Page, place: int) -> list[str]:
    return page.locator(f"#trials tbody td:nth-child({place})").all_inner_texts()


def test_all_trials_are_in_a_table_that_sorts_and_that_marks_lead_to(
    page: Page, folder: Path
) -> None:
    numbers = [int(cell.split()[0]) for cell in _column(page, 1)]
    ranked = [trial for trial, _ in _ranked(folder)]
    assert sorted(numbers) == list(range(34))
    values = [float(cell) for cell in _column(page, 2) if cell]
    assert values == sorted(values, reverse=True)
    assert numbers[0] in ranked
    page.click("#trials th:has-text('trial')")
    assert [int(cell.split()[0]) for cell in _column(page, 1)] == list(range(34))
    page.click("#trials th:has-text('lr')")
    place = page.locator("#trials th").all_inner_texts().index("lr") + 1
    assert page.locator("#trials th[aria-sort=ascending]").inner_text() == "lr"
    rates = [float(cell) for cell in _column(page, place)]
    assert rates == sorted(rates)
    page.click("#trials th:has-text('lr')")
    assert [float(cell) for cell in _column(page, place)] == sorted(rates, reverse=True)
    mark = (
        page.locator(".chart").first.locator(".scatterlayer .trace").first.locator(".point").first
    )
    mark.click(force=True)
    found = page.locator("#trials tr.found td").first.inner_text()
    assert page.url.endswith(f"#trial-{found.split()[0]}")


def test_what_a_trial_says_is_text_and_no_markup(page: Page) -> None:
    assert page.title() == "Study digits"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("section", has_text="Failed and diverged").inner_text()


def test_the_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    page.wait_for_function(
        "[...document.querySelectorAll('.main-svg')].every(svg => svg.clientWidth <= 375)"
    )
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 375


def test_the_axes_of_the_parallel_coordinates_are_apart_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    page.wait_for_function(
        "[...document.querySelectorAll('.main-svg')].every(svg => svg.clientWidth <= 375)"
    )
    chart = page.locator("section", has=page.locator("h2", has_text="Parallel")).locator(".chart")
    names = chart.locator(".ytick text")
    assert {"bn1", "optimizer", "weight_decay", "accuracy"} < set(names.all_text_contents())
    boxes = [box for name in names.all() if (box := name.bounding_box()) is not None]
    boxes.sort(key=lambda box: box["y"])
    assert len(boxes) == names.count()
    assert all(
        above["y"] + above["height"] < below["y"] for above, below in itertools.pairwise(boxes)
    )


COLORS = """() => {
    const of = (selector) => getComputedStyle(document.querySelector(selector));
    return [of('body').backgroundColor, of('body').color, of('.chart .xtick text').fill];
}"""
LIGHT = ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(27, 31, 36)"]
DARK = ["rgb(13, 17, 23)", "rgb(230, 237, 243)", "rgb(230, 237, 243)"]


def test_the_page_and_its_charts_follow_the_reader_into_the_dark_but_not_onto_paper(
    page: Page,
) -> None:
    assert page.evaluate(COLORS) == LIGHT
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(COLORS) == DARK
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(COLORS) == LIGHT


def test_what_is_folded_is_not_printed(page: Page) -> None:
    page.emulate_media(media="print")
    variants = page.get_by_role("heading", name="The variants")
    assert not variants.is_visible()
    page.emulate_media(media="screen")
    assert variants.is_visible()


def test_the_page_is_printed_with_its_charts(page: Page) -> None:
    page.evaluate(
        "addEventListener('beforeprint', () => { window.seenOnPaper = "
        "[...document.querySelectorAll('.main-svg')].map(svg => svg.clientWidth) })"
    )
    page.click("summary")
    page.wait_for_function("document.body.dataset.unfolded")
    before = page.eval_on_selector_all(".chart", DRAWN)
    assert page.pdf(format="A4").startswith(b"%PDF")
    printed = page.evaluate("seenOnPaper")
    assert len(printed) >= len(before)
    assert 200 < min(printed) <= max(printed) <= 680, "A4 without its margins has 680 pixels"
    assert page.eval_on_selector_all(".chart", DRAWN) == before


def test_the_answer_is_what_the_database_holds(page: Page, folder: Path) -> None:
    ran_again = read(folder / "runs.csv")
    found = {
        number: (accuracy, [run[-1].metrics["test_accuracy"] for run in runs.values()])
        for number, accuracy in _ranked(folder)[:2]
        for runs in (ran_again[f"trial {number}"],)
    }
    number = max(found, key=lambda number: statistics.fmean(found[number][1]))
    accuracy, fresh = found[number]
    answer = dict(
        zip(
            page.locator("dl.answer dt").all_inner_texts(),
            page.locator("dl.answer dd").all_inner_texts(),
            strict=True,
        )
    )
    assert answer["Best trial"].split()[0] == str(number)
    assert answer["Test accuracy in the search"] == f"{accuracy:.4f}"
    mean, sd = statistics.fmean(fresh), statistics.stdev(fresh)
    assert answer["Test accuracy of re-runs"].startswith(f"{mean:.4f} ± {sd:.4f} (")
    assert answer["Test accuracy of re-runs"].endswith("over 2 fresh seeds")


def test_pruning_saved_the_epochs_that_pruned_trials_did_not_run(folder: Path) -> None:
    found = json.loads(_made(folder, "json"))
    pruned = _rows(
        folder,
        f"SELECT count(*), avg(seconds) FROM {EPOCHS} WHERE state = 'PRUNED' GROUP BY trial_id",
    )
    assert pruned
    saved = found["savings"]
    assert saved["pruned"] == len(pruned)
    assert saved["epochs_saved"] == sum(3 - int(str(ran)) for ran, _ in pruned)
    seconds = sum((3 - int(str(ran))) * float(str(each)) for ran, each in pruned)
    assert saved["seconds_saved"] == pytest.approx(seconds)


def test_programs_read_the_same_trials_in_every_format(folder: Path) -> None:
    found = json.loads(_made(folder, "json"))
    exported = _run(folder, "search.__main__", "export", "digits")
    lines = list(csv.DictReader(io.StringIO(exported)))
    stored = _rows(
        folder,
        "SELECT number, state FROM trials JOIN studies USING (study_id) "
        "WHERE study_name = 'digits' ORDER BY number",
    )
    assert [(t["number"], t["state"]) for t in found["trials"]] == stored
    assert [(int(line["number"]), line["state"]) for line in lines] == stored
    complete = [line for line in lines if line["value"]]
    ranked = [(int(line["number"]), float(line["value"])) for line in complete]
    assert set(ranked) == set(_ranked(folder))
    assert [t["value"] for t in found["trials"] if t["value"] is not None] == [
        value for _, value in ranked
    ]
    assert (found["metric"], found["direction"]) == ("test_accuracy", "maximize")
    assert [line["reason"] for line in lines if line["state"] == "FAIL"] == [HOSTILE]
    assert sum(one["value"] for one in found["importances"].values()) == pytest.approx(1)
    assert all(one["sd"] > 0 for one in found["importances"].values())
    assert found["variants"].keys() == set(load("digits").variants)
    epochs = _rows(folder, f"SELECT count(*) FROM {EPOCHS} WHERE name = 'digits'")
    assert sum(len(trial["epochs"]) for trial in found["trials"]) == epochs[0][0]
    assert sum(int(line["epochs"]) for line in lines) == epochs[0][0]
    text = _made(folder, "markdown")
    assert "</script>" not in text
    (failed,) = [line for line in text.splitlines() if "/script>" in line]
    assert len(re.findall(r"(?<!\\)\|", failed)) == 5, "four cells, whatever a reason holds"
    assert f"| {_ranked(folder)[0][0]}" in text
    assert "| precision | torch | cuda | code | trials |" in text


def test_trials_of_each_kind_are_counted(tmp_path: Path, search: Command) -> None:
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    made_up(database, load("digits"), 120)
    database.close()
    assert search("report", "--study", "digits").returncode == 0
    page = (tmp_path / "report-digits.html").read_text()
    assert "40 complete, 80 pruned, 0 diverged, 0 failed, 6 unfinished" in page


def test_published_curves_stand_beside_ours(tmp_path: Path, search: Command) -> None:
    (tmp_path / "mine.csv").write_text(
        "variant,epoch,train_loss,train_accuracy,test_loss,test_accuracy\n"
        "question-1,1,2.0,0.1,2.0,0.0123\nquestion-1,2,1.0,0.5,1.0,0.4567\n"
    )
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom pathlib import Path\n"
        "import numpy\nfrom studies import digits\n"
        "published = Path(__file__).with_suffix('.csv')\n"
        "study = replace(digits.study, name='mine', epochs=1, published=published)\n"
        "study = study.changed({'images': 160})\n"
    )
    ran = search("run", "--study", "mine.py", "--threads", 1, "--trials", 2, "--device", "cpu")
    assert ran.returncode == 0
    reason = "trained on the first 160 of 1438 images"
    assert f"Not comparable: ours are {reason}." in ran.stdout
    out = search("report", "--study", "mine.py", "--format", "json", "--out", "-").stdout
    variant = json.loads(out)["variants"]["question-1"]
    assert variant["published"]["2"]["test_accuracy"] == 0.4567
    assert variant["verdict"] == f"not comparable: {reason}"
    assert (variant["settings"]["images"], variant["epochs"]) == (160, 1)
    assert variant["incomparable"] == reason
    assert search("report", "--study", "mine.py").returncode == 0
    page = (tmp_path / "report-mine.html").read_text()
    assert "test, published, not comparable" in page
    assert f"Not comparable: ours are {reason}." in page
    assert "0.0123" in page
    text = search("report", "--study", "mine.py", "--format", "markdown", "--out", "-").stdout
    assert "python -m search.reproduce --study mine.py --trial best --repeats 5" in text
    assert f"not comparable: {reason} | 1 | 0.4567 |" in text
    assert f"|  | numpy {version('numpy')} |" in text  # what the file imports
    assert "trained on |" not in text  # the caption has said it
    more = ("--variant", "base", "--variant", "question-1", "--images", 1438, "--threads", 1)
    assert search("reproduce", "--study", "mine.py", *more).returncode == 0
    out = search("report", "--study", "mine.py", "--format", "json", "--out", "-").stdout
    found = json.loads(out)
    assert found["settings"]["images"] == 160
    assert found["settings"]["precision"] == "float32"
    assert found["variants"]["question-1"]["settings"]["images"] == 1438
    assert found["variants"]["question-1"]["verdict"] == "one seed: no verdict"
    text = search("report", "--study", "mine.py", "--format", "markdown", "--out", "-").stdout
    assert "| question-1 | all 1438 images, 1 epoch |" in text


def test_what_cannot_be_reported_is_said_in_one_line(tmp_path: Path, search: Command) -> None:
    def refused(*options: str) -> str:
        done = search("report", "--study", "digits", *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "sqlite:///search.db: there is no such file" in refused()
    waiting = search("run", *QUICK, "--images", 160, "--timeout", 0.001)
    assert waiting.returncode == 0
    assert "this study has no finished epoch" in refused()
    assert "sqlite:///search.db has no study of this name" in refused("--name", "other")
    assert search("run", *QUICK, "--images", 160, "--trials", 1).returncode == 0
    assert "--out none/r.html: No such file or directory" in refused("--out", "none/r.html")
    assert not list(tmp_path.glob("*.tmp"))
