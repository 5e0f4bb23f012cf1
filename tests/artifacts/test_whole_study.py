"""A copy of a study goes on by itself, and a deleted one leaves nothing."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from sqlalchemy import func, select, table

from search.artifacts.store import open_artifacts
from search.artifacts.whole_study import copy, delete
from search.database import tables
from search.database.optuna_internals import COLUMNS
from search.database.studies import files_of, study_called
from search.errors import UserError
from search.study.study import Study
from search.weights import find, state
from tests.support.curves import study as curves
from tests.support.process import Killed, Process, Start, killed_at


@pytest.fixture
def study() -> Study:
    return curves


def _begun(start: Start) -> Process:
    """Return a process that has been killed in the middle of a search, whose trials have all kinds
    of files: checkpoints of promoted ones, and weights."""
    process = start(replace(curves, trials=12))
    process.work()
    process = start(curves)
    with pytest.raises(Killed):
        process.run(process.claim(), killed_at(1))
    return process


def _files(folder: Path, prefix: str) -> dict[str, bytes]:
    return {
        path.name.removeprefix(prefix): path.read_bytes()
        for path in folder.rglob(f"{prefix}-*")
        if path.is_file()
    }


def test_a_copy_goes_on_as_its_original_does(start: Start, url: str, tmp_path: Path) -> None:
    process = _begun(start)
    copied = copy(process.database, open_artifacts(str(tmp_path)), process.ref, "copy")
    before, after = (files_of(process.database, ref) for ref in (process.ref, copied))
    files = _files(tmp_path, before)
    assert files
    assert _files(tmp_path, after) == files
    process.work()
    again = start(replace(curves, name="copy"))
    assert again.ref == copied
    again.work()
    assert again.figures() == process.figures()
    attributes = [
        [{**trial.user_attrs, "seconds_per_epoch": None} for trial in trials]
        for trials in (process.trials, again.trials)
    ]
    assert attributes[0] == attributes[1]
    for name in (process.worker.study.name, "copy"):
        path = find(url, name, "best", artifacts=tmp_path)
        assert state(path)["epoch"] == curves.epochs
    listed = [
        get_all_artifact_meta(trial, storage=again.database.optuna)
        for trial in optuna.load_study(study_name="copy", storage=again.database.optuna).trials
    ]
    assert {meta.artifact_id[:16] for metas in listed for meta in metas} == {after}


def test_weights_that_are_elsewhere_are_told_of_when_a_study_is_copied(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = _begun(start)
    artifacts = open_artifacts(str(tmp_path))
    copy(process.database, artifacts, process.ref, "whole")
    assert caplog.messages == []
    best = find(process.database.url.render_as_string(hide_password=False), "curves", "best",
                artifacts=tmp_path)  # fmt: skip
    best.unlink()  # as if another machine had trained it
    copy(process.database, artifacts, process.ref, "part")
    (number,) = [t.number for t in process.trials if best.name.split("-")[1] == str(t.number)]
    assert caplog.messages == [
        f"the weights of trial {number} are not in {tmp_path}/files, and so not in the copy"
    ]


def test_a_name_that_is_taken_is_refused_and_nothing_is_copied(
    start: Start, tmp_path: Path
) -> None:
    process = _begun(start)
    before = _counts(process)
    with pytest.raises(UserError, match="has a study of this name"):
        copy(process.database, open_artifacts(str(tmp_path)), process.ref, curves.name)
    assert _counts(process) == before


def test_a_deleted_study_leaves_nothing_and_touches_no_other(start: Start, tmp_path: Path) -> None:
    process = _begun(start)
    artifacts = open_artifacts(str(tmp_path))
    alone = _counts(process)
    files = _files(tmp_path, files_of(process.database, process.ref))
    copied = copy(process.database, artifacts, process.ref, "copy")
    prefix = files_of(process.database, copied)
    delete(process.database, artifacts, [copied])
    assert _counts(process) == alone
    assert not _files(tmp_path, prefix)
    assert _files(tmp_path, files_of(process.database, process.ref)) == files
    with pytest.raises(UserError, match="no such study; it has curves"):
        study_called(process.database, "copy")
    delete(process.database, artifacts, [process.ref])
    assert set(_counts(process).values()) == {0}
    assert not any(path.is_file() for path in (tmp_path / "files").rglob("*"))


def test_a_study_with_a_trial_at_work_is_not_deleted(start: Start, tmp_path: Path) -> None:
    process = start()
    claim = process.claim()
    other = copy(process.database, open_artifacts(str(tmp_path)), process.ref, "copy")
    before = _counts(process)
    with pytest.raises(UserError, match="1 worker is running trials of it"):
        delete(process.database, open_artifacts(str(tmp_path)), [other, process.ref])
    assert _counts(process) == before
    process.claims.release(claim)
    delete(process.database, open_artifacts(str(tmp_path)), [process.ref])


def _counts(process: Process) -> dict[str, int]:
    """Return the number of rows of each table that rows of studies are in."""
    own = [*tables.metadata.tables]
    of_optuna = [name for name in COLUMNS if name not in ("version_info", "alembic_version")]
    with process.database.engine.connect() as connection:
        return {
            name: connection.scalar(select(func.count()).select_from(table(name))) or 0
            for name in (*own, *of_optuna)
            if name != tables.schema.name
        }
