"""What a search shows on terminals of all sizes, while it runs and at its end."""

import dataclasses
import io
import re
from datetime import datetime, timedelta

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console, RenderableType

from search.analysis.answer import answer_from_reruns
from search.analysis.paired_test import standings
from search.database.database import Database
from search.database.leases import Lease
from search.database.liveness import ProcessIdentity
from search.database.snapshot import Observer, Overview
from search.database.studies import join
from search.reporting import progress
from search.reporting.progress import show_progress
from search.reporting.seed_tables import comparison, rerun_table
from search.reporting.status import Status
from search.reporting.terminal import summary
from search.study.budget import Budget
from search.study.metrics import Epoch
from search.study.space import Value, params_text
from search.study.study import Study
from search.study.trial_attributes import VARIANT
from studies.cifar import Choices
from studies.cifar import study as cifar
from tests.support.commands import until
from tests.support.epochs import epoch
from tests.support.made_up import made_up

SIZES = [(80, 24), (120, 40), (40, 10)]
VARIANTS = list(cifar.variants)


def _shown(what: RenderableType, width: int, height: int = 24) -> list[str]:
    """Return the lines on a terminal of that size, none of which is wider than it."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=height, force_terminal=True, color_system=None, markup=False
    )
    console.print(what)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def _first_cells(lines: list[str]) -> list[str]:
    return [re.split(r" *[│┃|] *", line)[1] for line in lines if line.startswith(("│", "|"))]


def _trial(number: int, state: TrialState, name: str, base: Choices) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=0.7 + number / 100 if state == TrialState.COMPLETE else None,
        params=cifar.space.params(base),
        distributions=cifar.space.ranges,
        user_attrs={VARIANT: name},
    )
    made.number = number
    return made


def _epoch(accuracy: float, number: int = 1) -> Epoch:
    return epoch(number, batch_loss=1.0, test_loss=1.0, test_accuracy=accuracy)


def _overview(base: Choices, *, running: int, name: str = "") -> Overview:
    """Return the variants complete, the last of them the best, and then so many trials that run."""
    names = [(TrialState.COMPLETE, one) for one in VARIANTS]
    names += [(TrialState.RUNNING, name or VARIANTS[n % 6]) for n in range(running)]
    trials = [_trial(number, *state, base) for number, state in enumerate(names)]
    epochs = {
        trial.number: [_epoch(trial.values[0] if trial.values else 0.6789)] for trial in trials
    }
    leases = {
        trial.number: Lease(
            trial=trial.number,
            worker="worker",
            process=ProcessIdentity.current(),
            until=10,
            expired=False,
            batches_per_second=1234.5,
        )
        for trial in trials[6:]
    }
    values = {trial.number: trial.values[0] for trial in trials if trial.values}
    return Overview(
        study_key="",
        trials=trials,
        values=values,
        epochs=epochs,
        places={},
        leases=leases,
        is_paused=False,
        n_epochs=1,
        objective=cifar.objective,
        final=cifar.final,
    )


def _status(overview: Overview) -> Status:
    return Status(overview=overview, budget=Budget(trials=6), times="time left: about 1:20:30")


@pytest.mark.parametrize("running", [0, 2, 32])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_live_view_says_the_best_and_the_counts_first_and_fits(
    base: Choices, width: int, height: int, running: int
) -> None:
    lines = _shown(_status(_overview(base, running=running)), width, height)
    assert len(lines) < height
    assert lines[0] == "best 0.7500 (trial 5 question-4.2)"
    (bar,) = (place for place, line in enumerate(lines) if line.startswith("━"))
    assert re.fullmatch("━+ 6 of 6 trials", lines[bar])
    choices = " ".join(line.strip() for line in lines[1:bar])
    assert choices == (params_text(cifar.space.params(base)) if width >= 60 else "")
    told = " ".join(line.strip() for line in lines[bar + 1 : bar + 3])
    assert told.startswith(f"{running} running, 0 pruned, 0 failed; time left: about 1:20:30")
    ends = [place for place, line in enumerate(lines) if line.startswith("ended")]
    ended = [line.split()[0] for end in ends for line in lines[end + 1 :] if line[0].isdigit()]
    assert ended == ["5", "4", "3", "2", "1"][: len(ended)]  # in the room that is left
    assert len(ended) == 5 or running == 32 or height == 10
    lines = lines[: ends[0]] if ends else lines
    table = [line.rstrip() for line in lines if re.match(r"\d+ (base|question)", line)]
    assert all("0.6789" in row for row in table)
    labels = [f"{6 + n} {VARIANTS[n % 6]}" for n in range(len(table))]
    assert [" ".join(row.split()[:2]) for row in table] == labels
    left = [line.rstrip() for line in lines if line.startswith("and ")]
    assert left == ([f"and {running - len(table)} more"] if len(table) < running else [])
    if left:
        assert len(lines) == height - 1


@pytest.mark.parametrize(("width", "height"), [(20, 3), (12, 6), (30, 12), (1, 1)])
def test_the_live_view_is_no_larger_than_a_tiny_terminal(
    base: Choices, width: int, height: int
) -> None:
    lines = _shown(_status(_overview(base, running=32, name="名" * 40)), width, height)
    assert len(lines) <= max(height - 1, 1)
    assert width < 11 or lines[0].startswith("best 0.7500")


def test_what_is_left_when_a_search_ends_is_what_was_printed(
    database: Database, study: Study
) -> None:
    made_up(database, study, 12)
    observer = Observer(database, join(database, study, data_digest="none"))
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10)
    with show_progress(observer, console, study, budget=Budget(trials=20)):
        console.print("a worker's message")
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    assert "12 of 20 trials" in output
    assert _left_on_screen(output) == ["a worker's message"]


def _left_on_screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after `output`; rich moves up, and erases lines."""
    rows, at = [""], 0
    for code, text in re.findall(r"\x1b\[([?\d;]*[A-Za-z])|(\r|\n|[^\x1b\r\n]+)", output):
        if code == "1A":
            at -= 1
        elif code == "2K":
            rows[at] = ""
        elif text == "\n":
            at += 1
            rows += [""] * (at == len(rows))
        elif text != "\r":
            rows[at] += text
    assert rows[at:] == [""] * len(rows[at:])
    return [row for row in rows if row]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    database: Database, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    joined = join(database, study, data_digest="none")
    console = Console(file=io.StringIO(), force_terminal=True)
    with show_progress(Observer(database, joined), console, study, budget=Budget(trials=20)):
        joined.tell(joined.ask(), state=TrialState.FAIL)
    assert isinstance(console.file, io.StringIO)
    assert "FAIL after 0 of" in console.file.getvalue()


class _Script:
    """Stands for an observer: each look is the next of these."""

    def __init__(self, *looks: Overview) -> None:
        self.left = list(looks)

    def look(self) -> Overview:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def _printed(script: _Script, study: Study) -> list[str]:
    """Return the lines that a search prints on these looks, without the times."""
    console = Console(file=io.StringIO(), width=300)
    with show_progress(script, console, study, budget=Budget(trials=20)):  # type: ignore[arg-type]
        until(lambda: len(script.left) == 1)
    assert isinstance(console.file, io.StringIO)
    return [line.partition(" ")[2] for line in console.file.getvalue().splitlines()]


def test_lines_lose_nothing_between_two_looks_and_follow_the_order_of_the_epochs(
    base: Choices, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    now = datetime.now()

    def trial(number: int, state: TrialState, ended: int, **attributes: object) -> FrozenTrial:
        found = create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            params=study.space.params(base),
            distributions=study.space.ranges,
            user_attrs={"reason": "its reason", **attributes},
        )
        found.number = number
        found.datetime_complete = now + timedelta(seconds=ended) if ended else None
        return found

    def look(trials: list[FrozenTrial], places: dict[int, list[int]]) -> Overview:
        return Overview.of_trials(
            trials,
            study_key="",
            epochs={
                number: [_epoch(0.5, n) for n in range(1, len(of) + 1)]
                for number, of in places.items()
            },
            places={
                (number, n): place
                for number, of in places.items()
                for n, place in enumerate(of, start=1)
            },
            n_epochs=2,
            objective=study.objective,
            final=study.final,
        )

    running, pruned, failed = TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL
    looks = (
        look([], {}),
        look([trial(0, pruned, 1)], {0: [1]}),
        # Meanwhile trial 0 went on, and trials 1 and 2 were begun and pruned; trial 1 goes on.
        look(
            [
                trial(0, failed, 2, reopened=1),
                trial(1, running, 0, reopened=1),
                trial(2, pruned, 3),
            ],
            {0: [1], 1: [2], 2: [3]},
        ),
        look(
            [
                trial(0, failed, 2, reopened=1),
                trial(1, TrialState.COMPLETE, 5, reopened=1),
                trial(2, pruned, 4, reopened=1, canceled=True),
            ],
            {0: [1], 1: [2, 4], 2: [3]},
        ),
    )
    told = [" ".join(line.split()[:3]).rstrip(":") for line in _printed(_Script(*looks), study)]
    assert told == [
        "[0] begins: bn1=off",
        "[0] EPOCH: 1",
        "[0] PRUNED after",
        "[1] begins: bn1=off",
        "[1] EPOCH: 1",
        "[2] begins: bn1=off",
        "[2] EPOCH: 1",
        "[2] PRUNED after",
        "[0] goes on",
        "[0] FAIL after",
        "[1] goes on",
        "[2] PRUNED after",
        "[1] EPOCH: 2",
        "[1] COMPLETE after",
    ]


def test_lines_tell_whole_choices_promotions_takeovers_and_pauses(
    base: Choices, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    whole = study.space.params(base)

    def look(
        params: dict[str, Value],
        epochs: int,
        worker: str,
        *,
        reopened: int = 0,
        paused: bool = False,
    ) -> Overview:
        attributes = {"reopened": reopened} if reopened else {}
        trial = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        trial.number, trial.params = 0, params
        lease = Lease(
            trial=0,
            worker=worker,
            process=ProcessIdentity(host="elsewhere", pid=1, started=0.0),
            until=4,
            expired=False,
            batches_per_second=None,
        )
        return Overview.of_trials(
            [trial],
            study_key="",
            epochs={0: [_epoch(0.5, number + 1) for number in range(epochs)]},
            leases={0: lease},
            is_paused=paused,
            n_epochs=4,
            objective=study.objective,
            final=study.final,
        )

    script = _Script(
        look({}, 0, "one"),
        look(dict(list(whole.items())[:3]), 0, "one"),
        look(whole, 0, "one"),
        look(whole, 1, "one"),
        look(whole, 1, "two", reopened=1),
        look(whole, 2, "two", reopened=1),
        look(whole, 2, "three", reopened=1),
        look(whole, 2, "three", reopened=1, paused=True),
        look(whole, 2, "three", reopened=1),
    )
    lines = _printed(script, study)
    assert [line for line in lines if "EPOCH" not in line] == [
        f"[0] begins: {params_text(whole)}",
        "[0] goes on after epoch 1",
        "[0] resumes after epoch 2",
        "paused: the workers wait",
        "resumed after a pause",
    ]
    assert sum("EPOCH" in line for line in lines) == 2


@pytest.mark.parametrize("width", [160, 80, 60, 40])
def test_the_first_column_of_a_searchs_tables_is_whole_at_any_width(
    base: Choices, width: int
) -> None:
    published = dataclasses.replace(cifar, trials=60)
    overview = _overview(base, running=0)
    lines = _shown(summary(overview, published, answer_from_reruns(overview, {})), width)
    first = [cell for cell in _first_cells(lines) if cell]
    best = [f"{number} {VARIANTS[number]}" for number in (5, 4, 3, 2, 1)]
    assert first == [*best, *VARIANTS]
    text = "\n".join(lines)
    assert "0.7500" in text
    assert "…" not in text
    if width >= 80:
        assert "0.7757" in text  # the report's best of question-4.2
        assert "optimizer=SGD" in text


def test_the_tables_at_the_end_tell_the_data_and_what_was_interrupted(base: Choices) -> None:
    overview = _overview(base, running=1)
    interrupted = dataclasses.replace(overview, trials=overview.trials[1:], leases={})
    study = cifar.changed({"images": 300, "epochs": 1})
    text = "\n".join(_shown(summary(interrupted, study, answer_from_reruns(overview, {})), 160))
    assert "Best trials by test accuracy (the first 300 of 50000 images, 1 epoch)" in text
    assert re.search(r"│ base +│ 6 +│ INTERRUPTED │", text)


def test_the_epochs_of_trials_that_have_not_ended_are_told_apart(base: Choices) -> None:
    for running, told in ((0, "(100%);"), (2, "(100%), 8 with canceled and unfinished trials;")):
        overview = _overview(base, running=running)
        shown = summary(overview, cifar.changed({"epochs": 1}), answer_from_reruns(overview, {}))
        assert f"Epochs: 6 of 6 possible {told}" in "\n".join(_shown(shown, 160))


@pytest.mark.parametrize("width", [160, 80, 60, 40])
def test_the_first_column_of_what_was_trained_again_is_whole_at_any_width(
    base: Choices, width: int
) -> None:
    trials = {
        number: _trial(number, TrialState.COMPLETE, "question-4.1", base) for number in (7, 8)
    }
    found = standings({7: {0: 0.8, 1: 0.82}, 8: {0: 0.7, 1: 0.71}}, "maximize")
    lines = _shown(rerun_table(found, trials, cifar), width)
    assert [cell for cell in _first_cells(lines) if re.match(r"\d", cell)] == [
        "7 question-4.1",
        "8 question-4.1",
    ]
    assert "0.8100" in "\n".join(lines)
    epochs = [_epoch(0.701), _epoch(0.702, 2)]
    runs = {name: {0: epochs, 1: epochs[:1]} for name in VARIANTS}
    lines = _shown(comparison(runs, cifar), width)
    cells = _first_cells(lines)
    assert [cell for cell in cells if cell in VARIANTS] == VARIANTS
    assert cells.count("test accuracy") == 2 * len(VARIANTS)
    assert "0.7010" in "\n".join(lines)


def test_re_runs_without_published_metrics_are_shown_on_train_and_test(study: Study) -> None:
    name = next(iter(study.variants))
    of = {"batch_loss": 1.0, "train_loss": 0.9, "validation_loss": 1.1, "test_loss": 1.2}
    study = dataclasses.replace(study, epochs=1)
    runs = {name: {n: [epoch(1, **of, test_accuracy=0.5 + n * 6e-4)] for n in range(2)}}
    lines = _shown(comparison(runs, study.select("validation")), 160)
    rows = [re.split(r" *\| *", line)[1:-1] for line in lines if line.startswith("|")]
    epochs = [row for row in rows if row[0].startswith("t")]
    assert [row[0] for row in epochs] == ["train loss", "test loss", "test accuracy"]
    assert epochs[-1][2:] == ["0.5003", "0.0004", "0.5000", "0.5006"]  # all with four decimals
    assert "published" not in rows[0]
    final = "0.5003 ± 0.0004 (0.5000 to 0.5006)"
    assert rows[-1] == [name, "2", final, "0.5003"]
