"""A search ends with re-runs of its best trials, and judges the winner by seeds that did not choose
it, within the budget in epochs."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar

import pytest
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from scipy.stats import t
from sqlalchemy import func, select

from search.api import Result, run
from search.database import tables
from search.database.database import Database
from search.database.snapshot import Overview
from search.errors import UserError
from search.reporting.status import study_row
from search.study import Confirmation, Study
from search.study.metrics import Metrics
from search.study.seeds import SEEDS, derive_seed
from search.study.training import Run
from tests.support.curves import Choices
from tests.support.process import Killed

EPOCHS = 3
HOW = Confirmation(trials=3, seeds=3, unused=4)
RUNS = 3 * 3 + 4


class Noisy:
    """A training whose metric is its choice and a draw from its seed."""

    left: ClassVar[float] = math.inf
    """The number of epochs until the process is killed."""
    dying: ClassVar[Callable[[], None]] = staticmethod(lambda: None)
    """Is called just before that."""

    def __init__(self, run: Run[Choices]) -> None:
        self.run = run
        self.epoch = 0

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        for epoch in range(after + 1, self.run.epochs + 1):
            Noisy.left -= 1
            if Noisy.left < 0:
                Noisy.dying()
                raise Killed
            self.epoch = epoch
            luck = derive_seed(self.run.seed, f"{self.run.choices.x}") / SEEDS
            yield {"value": self.run.choices.x + 0.3 * luck}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]


noisy = Study(
    name="noisy",
    choices=Choices,
    train=Noisy,
    metric="value",
    epochs=EPOCHS,
    epochs_budget=30 + RUNS * EPOCHS,
    sampler=RandomSampler,
    pruner=NopPruner(),
    confirm=HOW,
)


@pytest.fixture(autouse=True)
def _alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noisy, "left", math.inf)


def _search(url: str, folder: Path, study: Study = noisy, **options: Any) -> Result[Choices]:
    return run(study, storage=url, artifacts=str(folder), **options)


def _rows(url: str) -> int:
    """Return the number of recorded epochs of all studies."""
    with closing(Database(url)) as database, database.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(tables.epochs)) or 0


def _state(url: str) -> tuple[str, str]:
    """Return the state of the search, and the epochs of its part of the budget."""
    with closing(Database(url)) as database:
        row = study_row(database, "noisy")
    return row["state"], row["epochs"]


def _reruns(url: str) -> dict[tuple[int, int], float]:
    """Return the metrics of the re-runs by trial and repeat."""
    with closing(Database(url)) as database:
        overview = Overview.of_study(database, "noisy-rerun")
    assert {trial.state for trial in overview.trials} == {TrialState.COMPLETE}
    return {(t.user_attrs["trial"], t.user_attrs["repeat"]): t.values[0] for t in overview.trials}


def test_the_winner_is_chosen_by_fresh_seeds_and_judged_by_others(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _search(url, tmp_path)
    assert found.is_done
    assert _rows(url) == noisy.epochs_budget
    ranked = [trial.number for trial in found.ended.overview.ranked[:3]]
    reruns = _reruns(url)
    means = {n: fmean(reruns[n, repeat] for repeat in (0, 1, 2)) for n in ranked}
    winner = max(ranked, key=means.__getitem__)
    assert reruns.keys() == {
        *((n, repeat) for n in ranked for repeat in (0, 1, 2)),
        *((winner, repeat) for repeat in (3, 4, 5, 6)),
    }
    assert found.best.number == winner
    unused = [reruns[winner, repeat] for repeat in (3, 4, 5, 6)]
    confirmed = found.ended.answer.confirmed
    assert confirmed is not None
    assert confirmed.unused.mean == pytest.approx(fmean(unused))
    expected = t.interval(0.95, 3, loc=fmean(unused), scale=stdev(unused) / 2)
    assert confirmed.interval == pytest.approx(expected)
    assert (confirmed.worst, confirmed.collapsed) == (min(unused), 0)
    assert confirmed.won_with.mean == pytest.approx(means[winner])
    told = " ".join(capsys.readouterr().out.split())
    assert f"{RUNS * EPOCHS} are set aside for the confirmation" in told
    assert f"Best over 4 unused seeds: trial {winner}, value {fmean(unused):.4f} ± " in told
    assert f"it won with {means[winner]:.4f} over 3 other seeds" in told


def test_a_confirmation_that_is_killed_goes_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[str, str]] = []
    monkeypatch.setattr(Noisy, "dying", lambda: states.append(_state(url)))
    monkeypatch.setattr(Noisy, "left", 30 + 7)
    with pytest.raises(Killed):
        _search(url, tmp_path)
    assert states == [("confirming, 1 running", "30 of 30")]
    assert _state(url) == ("not confirmed", "30 of 30")
    monkeypatch.setattr(Noisy, "left", 9)
    with pytest.raises(Killed):
        _search(url, tmp_path)
    monkeypatch.setattr(Noisy, "left", math.inf)
    found = _search(url, tmp_path)
    assert _rows(url) == noisy.epochs_budget
    assert _state(url) == ("done", "30 of 30")
    again = _search(url, tmp_path)
    assert _rows(url) == noisy.epochs_budget
    assert again.ended.answer.text == found.ended.answer.text
    other = f"sqlite:///{tmp_path}/other.db"
    expected = _search(other, tmp_path).ended.answer.confirmed
    assert found.ended.answer.confirmed == expected
    assert _reruns(url) == _reruns(other)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_larger_budget_is_confirmed_anew_and_earlier_re_runs_still_count(
    url: str, tmp_path: Path
) -> None:
    first = _search(url, tmp_path)
    more = _search(url, tmp_path, epochs_budget=60 + RUNS * EPOCHS)
    assert more.ended.overview.n_recorded == 60
    reruns = _reruns(url)
    ranked = [trial.number for trial in more.ended.overview.ranked[:3]]
    old = [trial.number for trial in first.ended.overview.ranked[:3]]
    assert set(ranked) != set(old)
    assert {n for n, _ in reruns} == {*ranked, *old}
    means = {n: fmean(reruns[n, repeat] for repeat in (0, 1, 2)) for n in {*ranked, *old}}
    assert more.best.number == max(means, key=means.__getitem__)
    confirmed = more.ended.answer.confirmed
    assert confirmed is not None
    assert confirmed.unused.n == 4


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_without_it_the_whole_budget_is_searched(url: str, tmp_path: Path) -> None:
    found = _search(url, tmp_path, confirm=False)
    assert found.ended.overview.n_recorded == _rows(url) == noisy.epochs_budget
    assert found.ended.answer.confirmed is None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_budget_in_trials_counts_no_re_runs(url: str, tmp_path: Path) -> None:
    found = _search(url, tmp_path, replace(noisy, epochs_budget=None), trials=4)
    assert len(found.ended.overview.finished) == 4
    assert len(_reruns(url)) == RUNS


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_studys_own_budget_grows_with_the_epochs_of_a_trial(url: str, tmp_path: Path) -> None:
    found = _search(url, tmp_path, epochs=10 * EPOCHS)  # whose re-runs alone would use it up
    assert found.ended.overview.n_recorded == 10 * 30
    assert _rows(url) == 10 * (30 + RUNS * EPOCHS)
    assert _search(url, tmp_path, epochs=10 * EPOCHS).ended.is_done
    assert _rows(url) == 10 * (30 + RUNS * EPOCHS)


def test_a_budget_that_the_confirmation_would_use_up_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    expected = "--epochs-budget 39: the confirmation takes 39 of it, .*--no-confirm"
    with pytest.raises(UserError, match=expected):
        _search(url, tmp_path, epochs_budget=39)
    assert not list(tmp_path.glob("none.db"))
