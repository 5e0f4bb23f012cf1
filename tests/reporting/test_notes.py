"""The notes that a study has in the dashboard, read as the dashboard reads them."""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from optuna_dashboard import get_note, save_note
from optuna_dashboard._note import get_note_from_system_attrs
from sqlalchemy import event

from search.analysis.answer import Answer
from search.database.database import Database
from search.database.identity import study_ref
from search.database.optuna_internals import study_id, trial_id
from search.database.snapshot import Overview
from search.database.studies import join
from search.reporting.notes import Notes, Progress, text
from search.reporting.status import study_row
from search.study.pruners import SuccessiveHalving
from search.study.study import Study
from studies.cifar import Choices
from studies.cifar import study as cifar
from tests.support.made_up import add, made_up
from tests.support.wsgi import renamed


@pytest.fixture
def published(study: Study) -> Study:
    """The small study, with the report's figures beside its variants."""
    return dataclasses.replace(study, epochs=5, trials=40, published=cifar.published)


@pytest.fixture
def notes(database: Database, published: Study) -> Notes:
    made_up(database, published, 12)
    joined = join(database, published, data_digest="none")
    return Notes(database=database, study=published, joined=joined)


def _nothing() -> Progress:
    none = Overview.of_trials(
        [], study_key="", epochs={}, n_epochs=5, objective=cifar.objective, final=cifar.final
    )
    answer = Answer(
        best=None,
        standings={},
        confirmed=None,
        seconds={},
        not_rerun=None,
        metric=cifar.final.words,
    )
    return Progress(counts=Counter(), n_epochs=0, some=none, answer=answer)


def _attributes(notes: Notes) -> dict[str, Any]:
    return notes.database.optuna.get_study_system_attrs(study_id(notes.joined))


def _updated(notes: Notes) -> str:
    notes.update()
    note: str = get_note(notes.joined)
    return note


def _rows(note: str, heading: str) -> list[list[str]]:
    """Return the cells of the rows of the table whose first column is called so, without the links
    of trials to their pages."""
    lines = note.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        told = re.sub(r"\[(\d+)\]\(trials\?numbers=\1\)", r"\1", line)
        rows.append([cell.strip() for cell in told.strip("|").split("|")])
    return rows


def test_the_note_counts_ranks_and_compares(notes: Notes) -> None:
    notes.update()
    note = get_note(notes.joined)
    trials = notes.joined.get_trials()
    assert note.startswith("# small\n")
    assert "12 of 40 trials: 4 complete, 8 pruned; 0 failed." in note
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: (-trial.values[0], trial.number))
    shown = [(row[0], row[1]) for row in _rows(note, "best trials")]
    assert [number for number, _ in shown] == [str(trial.number) for trial in best]
    assert [float(value.removeprefix("= ")) for _, value in shown] == [t.values[0] for t in best]
    assert shown[0][1] == f"{best[0].values[0]:.4f}"
    assert "is within twice the standard error of 160 test images" in note
    assert [row[0] for row in _rows(note, "name")][:2] == ["`bn1`", "`bn2`"]
    first, second = _rows(note, "variant")
    assert first == ["question-1", "0", "WAITING", "0 of 5", "", "", "", "0.7625"]
    assert second[0] == "question-3"
    assert (
        "\nOurs: the first 160 of 1438 images, 5 epochs. Published: up to 10 epochs. Not "
        "comparable: ours are trained on digits and not cifar10; on the first 160 of 1438 images.\n"
    ) in note
    assert "on a rung (epochs 1, 4)" in note
    assert "The best of many trials on the test set is optimistic" in note


def test_a_variants_note_bears_its_name_and_the_reports_best(notes: Notes) -> None:
    notes.update()
    attributes = _attributes(notes)
    variant = notes.joined.get_trials()[0]
    note = get_note_from_system_attrs(attributes, trial_id(variant))["body"]
    assert note.startswith("# question-1\n")
    assert "Best test accuracy in the report: 0.7625, at epoch 4." in note
    assert "Not comparable: ours are trained on digits and not cifar10; on the first 160" in note
    sampled = notes.joined.get_trials()[3]
    assert get_note_from_system_attrs(attributes, trial_id(sampled))["body"] == ""


def test_a_note_that_says_the_same_is_not_written_again(notes: Notes) -> None:
    notes.update()
    before = _attributes(notes)
    notes.update()
    assert _attributes(notes) == before
    notes.joined.tell(notes.joined.ask(), state=TrialState.FAIL)
    notes.update()
    assert _attributes(notes)["dashboard:note_ver"] == 2
    assert "1 failed" in get_note(notes.joined)


def test_a_note_that_a_user_wrote_or_edited_is_left_alone(notes: Notes) -> None:
    variant = notes.joined.get_trials()[0]
    save_note(optuna.Trial(notes.joined, trial_id(variant)), "mine")
    notes.update()
    assert get_note(notes.joined).startswith("# small")
    assert get_note_from_system_attrs(_attributes(notes), trial_id(variant))["body"] == "mine"
    save_note(notes.joined, get_note(notes.joined) + "\n\nand my own line")
    notes.joined.tell(notes.joined.ask(), state=TrialState.FAIL)
    notes.update()
    assert get_note(notes.joined).endswith("and my own line")
    assert "0 failed" in get_note(notes.joined)
    save_note(notes.joined, "")
    notes.update()
    assert "1 failed" in get_note(notes.joined)


@pytest.mark.parametrize("write", [1, 2])
def test_a_note_is_written_whole_or_not_at_all(notes: Notes, write: int) -> None:
    notes.update()
    notes.joined.tell(notes.joined.ask(), state=TrialState.FAIL)
    before, done = get_note(notes.joined), itertools.count(1)

    def kill(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if "study_system_attributes SET" in statement and next(done) == write:
            raise InterruptedError

    event.listen(notes.database.engine, "before_cursor_execute", kill)
    with pytest.raises(InterruptedError):
        notes.update()
    event.remove(notes.database.engine, "before_cursor_execute", kill)
    assert get_note(notes.joined) == before
    notes.update()
    assert "1 failed" in get_note(notes.joined)


def test_the_notes_of_a_renamed_study_are_still_the_services(notes: Notes) -> None:
    notes.update()
    save_note(optuna.Trial(notes.joined, trial_id(notes.joined.trials[1])), "mine")
    renamed(notes.database, "small", "large")
    study = dataclasses.replace(notes.study, name="large")
    joined = join(notes.database, study, data_digest="none")
    theirs = dataclasses.replace(notes, study=study, joined=joined)
    joined.tell(joined.ask(), state=TrialState.FAIL)
    theirs.update()
    assert get_note(joined).startswith("# large")
    assert "1 failed" in get_note(joined)
    assert get_note(optuna.Trial(joined, trial_id(joined.trials[1]))) == "mine"


def test_what_somebody_else_completed_is_told_and_not_ranked(notes: Notes) -> None:
    add(notes.database, notes.joined, [0.7, 0.75, 0.8, 0.85, 0.89], value=0.98)
    add(notes.database, notes.joined, [0.7, 0.75], value=0.99)
    notes.joined.add_trial(create_trial(value=math.inf))
    note = _updated(notes)
    rows = _rows(note, "best trials")
    assert rows[0][:2] == ["14", "0.8900"]
    assert not {"15", "16"} & {row[0] for row in rows}
    assert (
        "\n- trial 14: told from outside: COMPLETE 0.98; measured here: 0.8900 after 5 of 5 epochs"
        "\n- trial 15: told from outside: COMPLETE 0.99; measured here: 0.7500 after 2 of 5 epochs"
        "\n- trial 16: told from outside: COMPLETE inf; measured here: 0 of 5 epochs\n"
    ) in note


def test_the_best_trials_show_the_choices_that_differ(notes: Notes) -> None:
    few = dataclasses.replace(notes.study, name="few", variants={})
    made_up(notes.database, few, 4)
    joined = join(notes.database, few, data_digest="none")
    one, other = (t.params for t in joined.get_trials() if t.state == TrialState.COMPLETE)
    same = [name for name in one if one[name] == other[name]]
    note = _updated(dataclasses.replace(notes, study=few, joined=joined))
    common = re.search(r"^The best trials all have (.*)\.$", note, re.MULTILINE)
    assert common
    assert [word.partition("=")[0] for word in common[1].split()] == same
    for row in _rows(note, "best trials"):
        shown = [word.partition("=")[0] for word in row[-1].split()]
        assert shown == [name for name in one if name not in same]


def test_re_runs_decide_which_trial_the_note_names(notes: Notes) -> None:
    first, second = _rows(_updated(notes), "best trials")[:2]
    study = dataclasses.replace(notes.study, name="small-rerun", variants={})
    rerun = join(notes.database, study, data_digest="none")
    rerun.set_user_attr("origin", study_ref(notes.joined).key)
    accuracies = {first[0]: (0.50, 0.52, 0.51), second[0]: (0.71, 0.72, 0.70)}
    for number, reached in accuracies.items():
        for repeat, accuracy in enumerate(reached):
            attributes = {"trial": int(number), "repeat": repeat, "seed": repeat}
            add(notes.database, rerun, [accuracy - 0.1] * 4 + [accuracy], user_attrs=attributes)
    note = _updated(notes)
    assert "Best over 3 fresh seeds: trial " + second[0] in note
    assert "re-run the winner" not in note
    rows = {row[0]: row[2] for row in _rows(note, "best trials")}
    assert rows[second[0]] == "0.7100 ± 0.0100 (0.7000 to 0.7200)"
    assert rows[first[0]].startswith("0.5100 ± ")
    of_reruns = dataclasses.replace(notes, study=study, joined=rerun)
    of_reruns.update()
    assert "| best trials |" not in get_note(rerun)
    assert "re-runs of another study" in get_note(rerun)
    assert "trials: " in get_note(rerun).splitlines()[2]
    assert not re.search("Search space|at the rungs|on a rung", get_note(rerun))
    row = study_row(notes.database, "small-rerun")
    assert (row["state"], row["trials"]) == ("done", str(len(rerun.trials)))


def test_of_two_that_write_at_once_the_one_that_looked_later_wins(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, after_look = Progress.of, list[Callable[[], object]]()

    def interrupted(*of: Any) -> Progress:
        progress = look(*of)
        if after_look:
            after_look.pop()()
        return progress

    def fail() -> None:
        notes.joined.tell(notes.joined.ask(), state=TrialState.FAIL)

    def fail_and_update() -> None:
        fail()
        dataclasses.replace(notes).update()

    monkeypatch.setattr(Progress, "of", interrupted)
    for n_failed in (0, 1):  # the first time there are no notes yet
        after_look.append(fail_and_update)
        notes.update()
        assert f"{n_failed + 1} failed" in get_note(notes.joined)
    fail()
    after_look.append(lambda: save_note(notes.joined, "mine"))
    notes.update()
    assert get_note(notes.joined) == "mine"


def test_a_worker_brings_the_notes_up_to_date_every_few_seconds(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for seconds, told in ((0.0, "0 failed"), (4.9, "0 failed"), (5.0, "2 failed")):
        now[0] = 100.0 + seconds
        notes.update_if_due()
        assert told in get_note(notes.joined)
        notes.joined.tell(notes.joined.ask(), state=TrialState.FAIL)


def test_of_fewer_epochs_the_best_is_not_to_be_compared(published: Study) -> None:
    nothing = _nothing()
    comparable = published.changed({"dataset": "cifar10", "images": None, "epochs": 2})
    note = text(comparable, nothing)
    assert "| best of 2 epochs | published, same epoch | published best of 10 epochs |" in note
    assert "Compare values after the same epoch, not the best ones." in note
    assert "Compare" not in text(dataclasses.replace(comparable, epochs=10), nothing)
    unpublished = text(dataclasses.replace(comparable, published=None), nothing)
    assert "Published:" not in unpublished


def test_a_variants_name_breaks_no_table(published: Study, base: Choices) -> None:
    odd = dataclasses.replace(published, variants={"a\\|b": base})
    nothing = _nothing()
    assert "\n| a\\\\\\|b | " in text(odd, nothing)  # a backslash and a bar, each after another


def test_a_study_of_another_pruner_does_not_speak_of_rungs(notes: Notes) -> None:
    assert isinstance(notes.study.pruner, SuccessiveHalving)
    median = dataclasses.replace(notes.study, pruner=optuna.pruners.MedianPruner(), variants={})
    dataclasses.replace(notes, study=median).update()
    note = get_note(notes.joined)
    assert "stopped early by MedianPruner" in note
    assert "ariants" not in note
