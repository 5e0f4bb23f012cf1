"""Kept weights are whole after any kill, and a resumed search comes to the same SHA-256.

A full disk costs the weights, with a warning, and not the trial.
"""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, event

from search.artifacts import files_of_study, retention
from search.database import artifact_lists, optuna_internals, queries
from search.database.database import Database
from search.errors import UserError
from search.study.study import Study
from search.weights import find
from search.worker import claims, trial_files
from tests.support.commands import QUICK, Command
from tests.support.kept_weights import check, expected_numbers, file_sum, stored_sums
from tests.support.process import Killed, Process, Start

Line = tuple[str, int]
"""A file and a line's number."""


class Tracer:
    """Runs a trial and notes the lines about weights that its end takes; dies at one of them."""

    FILES = frozenset(
        module.__file__
        for module in (
            claims,
            retention,
            artifact_lists,
            optuna_internals,
            trial_files,
            files_of_study,
        )
    )

    def __init__(self, folder: Path, last: Line | None = None) -> None:
        self.lines: dict[Line, tuple[int, frozenset[str]]] = {}
        """What was there when a line was met first: so many commits, and these files."""
        self.functions: set[str] = set()
        self._folder, self._last = folder, last
        self._commits = 0

    def run(self, process: Process) -> None:
        def trace_the_end(batches: int) -> None:
            if batches == 0:  # an image to evaluate: all has been trained
                sys.settrace(self._trace)

        def commit(connection: Connection) -> None:
            self._commits += 1

        claim = process.claim()
        event.listen(Engine, "commit", commit)
        try:
            process.run(claim, trace_the_end)
        finally:
            sys.settrace(None)
            event.remove(Engine, "commit", commit)

    def moments(self) -> list[Line]:
        """Return the first and the last line of each stretch without a commit or a change of files:
        a kill between them leaves the same behind."""
        stretches = itertools.groupby(self.lines, key=lambda line: self.lines[line])
        ends = ((lines[0], lines[-1]) for lines in ([*stretch] for _, stretch in stretches))
        return list(dict.fromkeys(itertools.chain.from_iterable(ends)))

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in self.FILES:
            return None
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            self.functions.add(frame.f_code.co_name)
            if line not in self.lines:
                self.lines[line] = (
                    self._commits,
                    frozenset(path.name for path in self._folder.iterdir()),
                )
            if line == self._last:
                sys.settrace(None)
                raise Killed
        return self._trace


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_weights_astray(
    start: Start, tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The later trial is the better one: each is kept, and pushes out the fifth before it.
    by_accuracy = queries.best

    def by_number(*arguments: Any, n: int, epochs: int) -> list[queries.Place]:
        complete = by_accuracy(*arguments, n=1000, epochs=epochs)
        return sorted(complete, key=lambda place: -place.number)[:n]

    monkeypatch.setattr(queries, "best", by_number)
    monkeypatch.setattr(retention, "rank", lambda accuracy, number: (0.0, -number))
    process = start(tiny)
    for _ in range(5):
        process.run(process.claim())
    folder = tmp_path / "files"
    noted = Tracer(folder)
    noted.run(process)
    assert {"save", "write", "finish", "end_trial", "enter", "drop_others"} <= noted.functions
    assert len(noted.lines) > 60, noted.lines
    moments = noted.moments()
    assert len(moments) >= 10, moments
    for number, line in enumerate(moments, start=6):
        with pytest.raises(Killed):
            Tracer(folder, line).run(process)
        _no_end_without_weights(process, folder)
        process.kept.sweep()  # as the same command does when it begins
        if process.database.optuna.get_all_trials(1)[number].state == TrialState.RUNNING:
            claim = process.claim()
            assert claim.number == number, line
            process.run(claim)
        check(process.database, folder, set(range(number - 4, number + 1)))


def _no_end_without_weights(process: Process, folder: Path) -> None:
    """A row of a trial that has ended is of a file that is there."""
    sums = stored_sums(process.database)
    files = {file_sum(path) for path in folder.iterdir()}
    for trial in process.database.optuna.get_all_trials(1, deepcopy=False):
        if trial.state == TrialState.COMPLETE and trial.number in sums:
            assert sums[trial.number] in files


def test_lost_weights_are_trained_again_to_the_same_sum(
    start: Start, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, heir = start(study), start(study)

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(killed.claims), "finish", die)
        with pytest.raises(Killed):
            killed.run(killed.claim())
    (path,) = (tmp_path / "files").iterdir()
    content, figures = path.read_bytes(), killed.figures()[0]
    path.write_bytes(b"damaged")
    counts: list[int] = []
    heir.run(heir.claim(), counts.append)
    assert sum(count == 1 for count in counts) == study.epochs
    assert path.read_bytes() == content
    assert heir.figures()[0] == figures
    check(heir.database, tmp_path / "files", {0})


def test_two_searches_at_once_keep_the_weights_of_one(
    search: Command, url: str, tmp_path: Path
) -> None:
    options = (*QUICK, "--epochs", 1, "--trials", 14, "--storage", url)
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(search, "run", *options) for _ in range(2)]
    assert [one.result().returncode for one in both] == [0, 0]
    database = Database(url)
    expected = expected_numbers(database.optuna.get_all_trials(1))
    check(database, tmp_path / "artifacts" / "files", expected)
    database.close()


def test_without_room_for_its_weights_a_trial_completes_all_the_same(
    start: Start, tiny: Study, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(tiny)
    (tmp_path / "files").touch()  # a file where the folder would be: root cannot write there
    process.run(process.claim())
    assert process.trials[0].state == TrialState.COMPLETE
    assert "trial 0: its weights are not kept: " in caplog.text
    assert stored_sums(process.database) == {}
    with pytest.raises(UserError, match=r"trial 0: it is COMPLETE, .* those of no trial"):
        find(url, "tiny", "best", artifacts=tmp_path)


def test_without_room_for_checkpoints_a_trial_runs_all_the_same(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start()
    (tmp_path / "files").touch()  # a file where the folder is to be
    process.run(process.claim())
    assert process.trials[0].state == TrialState.COMPLETE
    assert "no checkpoint written" in caplog.text
