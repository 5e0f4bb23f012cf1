"""Which trial a study answers with, and whose re-runs it listens to; trials are made up."""

import dataclasses
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console, RenderableType
from sqlalchemy import update

from search.analysis.answer import Answer, answer
from search.database import tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.snapshot import Overview
from search.database.studies import join, rerun_study
from search.errors import UserError
from search.reporting.notes import Progress, text
from search.reporting.status import status, study_row
from search.reporting.terminal import summary
from search.study.budget import Budget
from search.study.confirmation import Confirmation
from search.study.study import Study
from search.worker import reruns
from search.worker.config import WorkerConfig
from search.worker.reruns import Reruns
from search.worker.stop import Stop
from studies.cifar import BASE
from tests.support.made_up import add, made_up
from tests.support.wsgi import renamed

WON = (0.70, 0.80, 0.90)
"""Of trials 0, 1 and 2 of the search: the last ranks first."""


@pytest.fixture
def small(study: Study) -> Study:
    return dataclasses.replace(study, variants={}, epochs=2)


@pytest.fixture
def searched(database: Database, small: Study) -> optuna.Study:
    joined = join(database, small, data_digest="none")
    for accuracy in WON:
        add(database, joined, [0.1, accuracy])
    return joined


def _nothing_to_train() -> Any:
    return SimpleNamespace(session=SimpleNamespace(digest="none", precision=None))


def _reruns(database: Database, study: Study, name: str) -> Reruns:
    return Reruns(
        study=dataclasses.replace(study, name=name),
        config=WorkerConfig(
            study="digits",
            changes={},
            storage=database.url.render_as_string(hide_password=False),
            data=Path(),
            artifacts="artifacts",
        ),
        machine=_nothing_to_train(),
        out=Console(),
        origin=study_ref(optuna.load_study(study_name=study.name, storage=database.optuna)).key,
    )


def _idle(database: Database, study: Study) -> Reruns:
    """Re-runs that are enqueued and not trained."""
    made = _reruns(database, study, f"{study.name}-rerun")
    return dataclasses.replace(made, work=lambda worker, stop, wanted: None)


def _run_again(
    database: Database, study: Study, found: dict[int, tuple[float, ...]], *, first: int = 0
) -> optuna.Study:
    """Record re-runs of the study's trials, by number, as if they had been trained."""
    reruns = _reruns(database, study, rerun_study(database, _key(database, study)) or "small-rerun")
    reruns.train_best([], 0, Stop())
    joined = optuna.load_study(study_name=reruns.study.name, storage=database.optuna)
    for number, reached in found.items():
        for repeat, accuracy in enumerate(reached, start=first):
            attributes = {"trial": number, "repeat": repeat, "seed": repeat}
            add(database, joined, [0.1, accuracy], user_attrs=attributes)
    return joined


def _key(database: Database, study: Study) -> str:
    return study_ref(optuna.load_study(study_name=study.name, storage=database.optuna)).key


def _answer(database: Database, name: str = "small") -> Answer:
    return answer(database, Overview.of_study(database, name))


def _number(trial: FrozenTrial | None) -> int | None:
    return None if trial is None else trial.number


def test_re_runs_of_several_trials_decide_and_those_of_one_do_not(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    assert _number(_answer(database).best) == 2
    _run_again(database, small, {1: (0.60, 0.61)})
    alone = _answer(database)
    assert (_number(alone.best), _number(alone.not_rerun)) == (2, 2)
    assert alone.text is None
    _run_again(database, small, {2: (0.50, 0.52)})
    both = _answer(database)
    assert (_number(both.best), both.not_rerun, both.tied) == (1, None, [])
    assert both.text is not None
    assert "Best over 2 fresh seeds: trial 1, test accuracy 0.6050 ± " in both.text


def test_a_trial_with_fewer_re_runs_can_be_the_best(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    _run_again(database, small, {2: (0.50, 0.51, 0.52, 0.80, 0.80), 1: (0.60, 0.62, 0.61)})
    found = _answer(database)
    assert _number(found.best) == 1
    assert {n: one.verdict for n, one in found.standings.items()} == {1: "best", 2: "worse"}


def test_a_re_run_that_somebody_else_ended_is_none(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    rerun = _run_again(database, small, {2: (0.50, 0.51), 1: (0.60, 0.62)})
    attributes = {"trial": 1, "repeat": 2, "seed": 2}
    add(database, rerun, [0.1], value=0.99, user_attrs=attributes)
    rerun.add_trial(create_trial(value=0.99, user_attrs={"trial": 0, "repeat": 0, "seed": 0}))
    rerun.add_trial(create_trial(value=0.99, user_attrs={"trial": 10**30, "repeat": 0}))
    found = _answer(database).standings
    assert {n: one.honest.lowest for n, one in found.items()} == {1: 0.60, 2: 0.50}


def test_a_new_study_of_a_deleted_ones_name_does_not_inherit_its_re_runs(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    _run_again(database, small, {1: (0.60, 0.61), 2: (0.50, 0.52)})
    optuna.delete_study(study_name="small", storage=database.optuna)
    again = join(database, small, data_digest="none")
    for accuracy in WON:
        add(database, again, [0.1, accuracy])
    assert _answer(database).standings == {}
    with pytest.raises(UserError) as refused:
        _reruns(database, small, "small-rerun").train_best([], 0, Stop())
    assert str(refused.value) == (
        "--name small: its re-runs would be in the study small-rerun, which has the re-runs of "
        "another study; rename or delete small-rerun in the dashboard"
    )


def test_a_study_of_that_name_with_trials_of_its_own_holds_no_re_runs(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    own = join(database, dataclasses.replace(small, name="small-rerun"), data_digest="none")
    add(database, own, [0.1, 0.5])
    with pytest.raises(UserError, match="small-rerun, which has trials of its own; rename"):
        _reruns(database, small, "small-rerun").train_best([], 0, Stop())


def test_renamed_studies_keep_their_re_runs(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    rerun = _run_again(database, small, {1: (0.60, 0.61)})
    optuna.copy_study(
        from_study_name=rerun.study_name, from_storage=database.optuna, to_storage=database.optuna,
        to_study_name="a copy",
    )  # fmt: skip
    renamed(database, "small-rerun", "fresh")
    renamed(database, "small", "large")
    large = dataclasses.replace(small, name="large")
    for study in (large, dataclasses.replace(small, name="fresh")):  # as resuming them does
        join(database, study, data_digest="none")
    _run_again(database, large, {2: (0.50, 0.52)})
    assert rerun_study(database, _key(database, large)) == "fresh"
    assert _number(_answer(database, "large").best) == 1
    assert len(_answer(database, "large").standings) == 2


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_has_collapsed_if_it_lost_a_tenth_of_its_best_or_diverged(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    _run_again(database, small, {2: (0.60, 0.61, 0.62), 1: (0.50, 0.51, 0.52)})
    joined = optuna.load_study(study_name="small-rerun", storage=database.optuna)
    for repeat, curve in enumerate(((0.50, 0.46), (0.50, 0.44), (0.60,), (0.70, 0.72)), start=3):
        attributes = {"trial": 2, "repeat": repeat, "seed": repeat, "reason": ""}
        state = TrialState.COMPLETE if len(curve) == 2 else TrialState.PRUNED
        add(database, joined, curve, state=state, user_attrs=attributes)
    found = _answer(database)
    assert found.confirmed is not None
    assert found.confirmed.collapsed == 2
    assert (found.confirmed.worst, found.confirmed.unused.n) == (0.0, 4)
    assert found.confirmed.won_with.mean == pytest.approx(0.61)
    assert found.text is not None
    told = "2 of 4 collapsed (diverged, or ended 10% or more below the run's best epoch)"
    assert f"{told}; it won with 0.6100 over 3 other seeds, after 0.9000" in found.text


def test_no_winner_is_chosen_before_all_re_runs_have_finished(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    reruns = dataclasses.replace(
        _reruns(database, small, "small-rerun"), work=lambda worker, stop, wanted: None
    )
    search = Overview.of_study(database, "small")
    for trial in search.ranked:
        trial.params = small.space.params(BASE)
    assert not reruns.confirm(search, Confirmation(), Stop())
    waiting = optuna.load_study(study_name="small-rerun", storage=database.optuna).get_trials()
    assert [trial.user_attrs["repeat"] for trial in waiting] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_re_runs_that_diverged_in_their_first_epoch_have_no_time(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    rerun = _run_again(database, small, {2: (0.60, 0.62, 0.64)})
    for repeat in range(3):
        attributes = {"trial": 1, "repeat": repeat, "seed": repeat, "reason": "diverged"}
        pruned = create_trial(state=TrialState.PRUNED, user_attrs=attributes)
        rerun.add_trial(pruned)
    found = _answer(database)
    assert (_number(found.best), found.seconds) == (2, {2: 2.0, 1: math.inf})


def test_the_trial_with_the_fastest_epochs_is_named_among_those_that_are_tied(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    rerun = _run_again(database, small, {2: (0.60, 0.62, 0.64), 1: (0.59, 0.63, 0.62)})
    assert _answer(database).tied_text == "trial 1, none of which has faster epochs"
    key = _key(database, dataclasses.replace(small, name=rerun.study_name))
    of_1 = [t.number for t in rerun.get_trials() if t.user_attrs["trial"] == 1]
    rows = tables.epochs
    with database.engine.begin() as connection:
        its = (rows.c.study_key == key) & rows.c.trial.in_(of_1)
        connection.execute(update(rows).where(its).values(seconds=0.5))
    assert _answer(database).tied_text == "trial 1, whose epochs are faster: 0.5 s against 2 s"


def test_every_view_begins_with_the_trial_that_the_re_runs_found_best(
    database: Database, small: Study, searched: optuna.Study
) -> None:
    _run_again(database, small, {2: (0.50, 0.52), 1: (0.70, 0.72)})
    row = study_row(database, "small")
    assert (row["best"], row["best trial"]) == ("0.8000", "1")
    assert row["mean of re-runs"] == "0.7100 (2 fresh seeds)"
    overview, found = Overview.of_study(database, "small"), _answer(database)
    told = [
        status(database, "small"),
        summary(overview, small, found),
        text(small, Progress.of(database, small, study_ref(searched))),
    ]
    of_status, of_terminal, of_note = map(_lines, told)
    best = next(line for line in of_status if line.startswith("best"))
    assert best == "best 0.8000 (trial 1), 0.7100 ± 0.0141 (0.7000 to 0.7200) over 2 fresh seeds"
    rows = [line.split()[1] for line in of_terminal if line.startswith("│")]
    assert rows == ["1", "2", "0"]
    rows = [line.split("]")[0] for line in of_note if line.startswith("| [")]
    assert rows == ["| [1", "| [2", "| [0"]


def test_a_search_without_a_complete_trial_is_not_confirmed(
    database: Database, small: Study
) -> None:
    join(database, small, data_digest="none")
    search = Overview.of_study(database, "small")
    assert not _idle(database, small).confirm(search, Confirmation(), Stop())


def test_the_progress_of_re_runs_counts_the_seeds_that_follow(
    database: Database, small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int | None] = []

    @contextmanager
    def show_progress(*arguments: object, budget: Budget) -> Iterator[None]:
        shown.append(budget.trials)
        yield

    monkeypatch.setattr(reruns, "show_progress", show_progress)
    made_up(database, small, 4)  # of which two are complete
    idle = _idle(database, small)
    search = Overview.of_study(database, "small")
    overview = idle.train_best(search.ranked[:2], 3, Stop())
    assert (shown, len(overview.trials)) == ([6, 6, 6], 6)
    idle.train_best(search.ranked[:2], 2, Stop())  # what is there is not counted again
    assert shown[3:] == [6, 6]
    assert not idle.confirm(search, Confirmation(trials=2, seeds=3, unused=4), Stop())
    assert shown[5:] == [6 + 4]


def _lines(what: RenderableType) -> list[str]:
    console = Console(file=io.StringIO(), width=90, markup=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()
