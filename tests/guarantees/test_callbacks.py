"""Callbacks are called once for each recorded epoch and each end of a trial, and cannot harm it."""

import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from search.database.database import Database
from search.errors import UserError
from search.study.callbacks import Callback, TrialInfo, TrialResult
from search.study.metrics import Epoch
from search.study.study import Study
from tests.support.callbacks import LINES, Fails, Recorder
from tests.support.commands import Command
from tests.support.curves import Choices, Curve, value
from tests.support.curves import study as curves
from tests.support.process import Killed, Start, killed_at

STOPS = (1, 4, 10)
"""The epochs at which trials of the curves end: the rungs, and the last one."""
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture
def study() -> Study:
    return replace(curves, seed=1)


@pytest.fixture
def calls() -> Recorder:
    return Recorder()


def test_each_epoch_is_told_once_and_each_end_of_a_trial_that_goes_on(
    start: Start, study: Study, calls: Recorder
) -> None:
    process = start(replace(study, callbacks=[calls], variants={"half": Choices(x=0.5)}))
    process.work()
    assert calls.order == process.order
    assert calls.end_order == [
        (trial, epoch, "complete" if epoch == 10 else "pruned")
        for trial, epoch in process.order
        if epoch in (STOPS if trial else STOPS[-1:])  # a variant is never pruned
    ]
    assert len(calls.ends) > len(process.trials), "some were promoted"
    trials = {trial.number: trial for trial in process.trials}
    for info, epoch in calls.epochs:
        assert info == TrialInfo(
            study="curves",
            study_key=process.ref.key,
            number=info.number,
            name=None if info.number else "half",
            params=trials[info.number].params,
            seed=study.trial_seed(trials[info.number]),
            metric="value",
            direction="maximize",
        )
        assert info.key == f"{process.ref.key}-{info.number}"
        assert epoch.metrics["value"] == value(float(info.params["x"] or 0), epoch.number)
    for _, result in calls.ends:
        assert result.last is not None
        assert result.value == result.last.metrics["value"]
        assert ("waits to be promoted" in result.reason) == (result.state == "pruned")


class Looks(Callback):
    """Takes the study's lock and reads, as another process does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[object] = []

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        found = Database(self.url)
        with found.lock(trial.study_key):
            pass
        self.seen.append(found.epochs(trial.study_key, trial.number)[-1] == epoch)
        found.close()

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        found = Database(self.url)
        with found.lock(trial.study_key):
            pass
        self.seen.append(found.optuna.get_all_trials(1)[trial.number].state)
        found.close()


def test_they_are_called_after_the_database_was_written_and_without_its_lock(
    start: Start, study: Study, url: str
) -> None:
    looks = Looks(url)
    process = start(replace(study, callbacks=[looks]))
    process.run(process.claim())
    assert looks.seen == [True, TrialState.PRUNED]


class Broken(Callback):
    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        raise ConnectionError("nobody at\nhttps://me:hush@host/x")

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        raise ValueError


@on_sqlite
def test_an_error_is_logged_in_a_line_and_the_search_goes_on(
    start: Start, study: Study, calls: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="search.worker.callbacks")
    process = start(replace(study, callbacks=[Broken(), calls], trials=2))
    process.work()
    assert calls.order == process.order
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    begin = "trial 0: Broken.after_epoch: ConnectionError: nobody at https://***@host/x"
    assert warnings[:2] == [begin, "trial 0: Broken.after_trial: ValueError"]
    assert len(warnings) == len(calls.epochs) + len(calls.ends)
    traces = [one.getMessage() for one in caplog.records if one.levelno == logging.DEBUG]
    assert len(traces) == len(warnings)
    assert "in after_epoch" in traces[0]
    assert "hush" not in caplog.text


class Interrupts(Callback):
    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        raise KeyboardInterrupt


@on_sqlite
def test_an_interrupt_passes_through(start: Start, study: Study) -> None:
    process = start(replace(study, callbacks=[Interrupts()]))
    with pytest.raises(KeyboardInterrupt):
        process.run(process.claim())
    (trial,) = process.trials
    assert (trial.state, process.order) == (TrialState.RUNNING, [(0, 1)])


@on_sqlite
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_resumed_trial_repeats_no_call(
    start: Start, study: Study, tmp_path: Path, is_lost: bool
) -> None:
    fixed = replace(study, variants={"half": Choices(x=0.5)})
    before, after = Recorder(), Recorder()
    killed = start(replace(fixed, callbacks=[before]))
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(4))
    if is_lost:  # it is trained again from its start
        (checkpoint,) = tmp_path.rglob("*-0-3-*")
        checkpoint.write_bytes(b"damaged")
    heir = start(replace(fixed, callbacks=[after]))
    heir.run(heir.claim())
    assert [epoch for _, epoch in before.order] == [1, 2, 3]
    assert [epoch for _, epoch in after.order] == [4, 5, 6, 7, 8, 9, 10]
    assert (before.end_order, after.end_order) == ([], [(0, 10, "complete")])
    assert {info.key for info, _ in before.epochs + after.epochs} == {f"{heir.ref.key}-0"}


class Kills(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        if epoch.number == self.at:
            raise Killed


@on_sqlite
def test_a_kill_between_the_record_and_the_call_loses_the_call(
    start: Start, study: Study, calls: Recorder
) -> None:
    fixed = replace(study, variants={"half": Choices(x=0.5)})
    killed = start(replace(fixed, callbacks=[Kills(at=3), calls]))
    with pytest.raises(Killed):
        killed.run(killed.claim())
    heir = start(replace(fixed, callbacks=[calls]))
    heir.run(heir.claim())
    assert [epoch for _, epoch in calls.order] == [1, 2, 4, 5, 6, 7, 8, 9, 10]


class Meddles(Callback):
    """Draws random numbers, and changes what it is given."""

    def __init__(self) -> None:
        self.sizes: set[int] = set()
        """The numbers of choices."""

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        random.random(), np.random.random(), torch.rand(1)
        epoch.metrics.clear()  # type: ignore[attr-defined]
        self.sizes.add(len(trial.params))
        trial.params.clear()  # type: ignore[attr-defined]


@on_sqlite
def test_they_change_no_metric(start: Start, tiny: Study, tmp_path: Path) -> None:
    digits = replace(tiny, epochs=3, trials=2)
    plain = start(digits, f"sqlite:///{tmp_path / 'plain.db'}")
    meddles = Meddles()
    meddled = start(replace(digits, callbacks=[meddles]))
    for process in (plain, meddled):
        process.work()
    assert meddled.figures() == plain.figures()
    assert meddles.sizes == {len(digits.space.names)}
    assert [trial.value for trial in meddled.trials] == [trial.value for trial in plain.trials]


class YieldsNothing(Curve):
    def fit(self, after: int = 0) -> Any:
        yield {}


@on_sqlite
@pytest.mark.parametrize(
    ("train", "raised", "reason", "last"),
    [(Fails, None, "ArithmeticError: too hot", 2), (YieldsNothing, UserError, "but not value", 0)],
)
def test_a_failed_trial_is_told_with_its_reason(
    start: Start, study: Study, calls: Recorder, train: Any, raised: Any, reason: str, last: int
) -> None:
    variants = {"half": Choices(x=0.5)}
    process = start(replace(study, train=train, variants=variants, callbacks=[calls]))
    if raised:
        with pytest.raises(raised):
            process.run(process.claim())
    else:
        process.run(process.claim())
    assert calls.end_order == [(0, last, "failed")]
    (_, result) = calls.ends[0]
    assert reason in result.reason
    assert result.value is None


@on_sqlite
def test_a_trial_that_stops_two_workers_is_told_as_failed_the_second_time(
    start: Start, study: Study, calls: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("search.worker.trial_files.TrialFiles.save", broken)
    for ends in (0, 1):
        process = start(replace(study, callbacks=[calls]))
        with pytest.raises(ZeroDivisionError):
            process.work()
        assert len(calls.ends) == ends
    assert calls.end_order == [(0, 0, "failed")]
    assert calls.ends[0][1].reason == "ZeroDivisionError: division by zero"


@on_sqlite
def test_workers_of_one_study_may_have_different_ones(
    start: Start, study: Study, calls: Recorder
) -> None:
    one, other = start(study), start(replace(study, callbacks=[calls]))
    one.run(one.claim())
    other.run(other.claim())
    assert {trial for trial, _ in calls.order} == {trial for trial, _ in other.order[1:]}


class Torn(Recorder):
    def __init__(self, name: str, steps: list[str]) -> None:
        super().__init__()
        self.name, self.steps = name, steps

    def setup(self) -> None:
        self.steps.append(f"{self.name} setup")
        if self.name == "refused":
            raise UserError("no key")

    def teardown(self) -> None:
        self.steps.append(f"{self.name} teardown")
        raise OSError("disk full")


@on_sqlite
def test_all_are_torn_down_whatever_ends_the_worker(
    start: Start, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[str] = []
    a, b, refused = (Torn(name, steps) for name in ("a", "b", "refused"))
    start(replace(study, callbacks=[a, b])).close()
    assert steps == ["a setup", "b setup", "a teardown", "b teardown"]
    assert [one.getMessage() for one in caplog.records] == ["Torn.teardown: OSError: disk full"] * 2
    steps.clear()
    with pytest.raises(UserError, match="no key"):
        start(replace(study, callbacks=[a, refused, b]))
    assert steps[:3] == ["a setup", "refused setup", "a teardown"]


def _calls(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def test_workers_in_processes_call_them_and_re_runs_but_no_replay(
    search: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(LINES)
    done = search("run", "--study", "mine.py", "--workers", 2, "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    calls = _calls(tmp_path)
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    (key,) = {key.partition("-")[0] for _, _, key, _ in calls}
    recorded = [
        [f"{key}-{n}", epoch.number] for n in range(16) for epoch in database.epochs(key, n)
    ]
    assert sorted([k, e] for _, _, k, e in calls if isinstance(e, int)) == sorted(recorded)
    database.close()
    done = search("reproduce", "--study", "mine.py", "--trial", "best")
    assert "All metrics are the same" in done.stdout
    assert _calls(tmp_path) == calls
    assert search("reproduce", "--study", "mine.py", "--top", 1, "--repeats", 2).returncode == 0
    added = _calls(tmp_path)[len(calls) :]
    best = done.stdout.partition("Replaying trial ")[2].split()[0]
    assert [(name, what) for _, name, _, what in added if what == "complete"] == [
        (f"trial {best} repeat {repeat}", "complete") for repeat in range(2)
    ]
    assert {study for study, *_ in added} == {"curves-rerun"}
    assert key not in {k.partition("-")[0] for _, _, k, _ in added}


@pytest.mark.parametrize(
    ("raised", "complaint"),
    [
        ("UserError('no key; log in')", "no key; log in"),
        ("OSError('no\\nplace')", "callbacks: Mine: OSError: no place"),
    ],
)
def test_one_that_cannot_be_set_up_ends_the_search_before_it_begins(
    search: Command, tmp_path: Path, raised: str, complaint: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from search.errors import UserError\n"
        "from search.study import Callback\n"
        "from tests.support.curves import study\n"
        "class Mine(Callback):\n"
        f"    def setup(self): raise {raised}\n"
        "study = replace(study, callbacks=[Mine()])\n"
    )
    done = search("run", "--study", "mine.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"python -m search.run: error: {complaint}\n"
    assert not (tmp_path / "search.db").exists()
