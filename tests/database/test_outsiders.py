"""Trials that others ended, added or changed with Optuna alone: shown as such, and never ranked."""

import csv
import io
import json
import math
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from optuna_dashboard import get_note
from sqlalchemy import insert

from search.database.database import Database
from search.database.identity import study_ref
from search.database.leases import Claim, grant
from search.database.liveness import ProcessIdentity
from search.database.snapshot import Observer, Overview
from search.database.studies import join
from search.database.tables import epochs
from search.errors import UserError
from search.study.study import Study
from search.weights import find
from tests.support.commands import run_command
from tests.support.epochs import columns, epoch

pytestmark = pytest.mark.slow

STUDY = ("--study", "digits", "--threads", "1")
SEARCH = (*STUDY, "--images", "100", "--epochs", "2", "--trials", "7")
INVENTED = 0.99


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real search of seven trials, and what others have made of its study since."""
    made = tmp_path_factory.mktemp("outsiders")
    done = run_command(made, "run", *SEARCH)
    assert done.returncode == 0, done.stderr
    storage = optuna.storages.RDBStorage(f"sqlite:///{made / 'search.db'}")
    study = optuna.load_study(study_name="digits", storage=storage)
    study.tell(study.ask(), INVENTED)  # trial 7: no params, no epochs
    others: tuple[dict[str, Any], ...] = (
        {"value": math.inf, "params": {"lr": 5.0},
         "distributions": {"lr": FloatDistribution(1e-4, 10.0, log=True)}},
        {"value": 0.5, "params": {"momentum": 0.9},
         "distributions": {"momentum": CategoricalDistribution((0.9, 0.5))}},
        {"value": 0.5, "user_attrs": {"variant": ["base"], "reason": 7, "environments": "here"}},
        {"value": 0.5, "user_attrs": {"variant": "base", "repeat": "first", "seed": None}},
        {"state": TrialState.PRUNED, "intermediate_values": {1: INVENTED}},
        {"state": TrialState.FAIL, "user_attrs": {"diverged": "soon", "traceback": {"a": 1}}},
        {"state": TrialState.WAITING, "system_attrs": {"fixed_params": {"lr": 7.0}}},
        {"state": TrialState.RUNNING, "params": {"x": 1.0},
         "distributions": {"x": FloatDistribution(0, 2)}},
        {"state": TrialState.FAIL, "user_attrs": {"variant": "mine"}},
        {"state": TrialState.WAITING, "system_attrs": {"fixed_params": [1]}},
        {"state": TrialState.WAITING, "system_attrs": {"fixed_params": study.trials[3].params},
         "user_attrs": {"variant": "base", "seed": "abc", "environments": 7}},
    )  # fmt: skip
    for values in others:
        study.add_trial(create_trial(**{"state": TrialState.COMPLETE} | values))
    storage.engine.dispose()
    with closing(sqlite3.connect(made / "search.db")) as connection, connection:
        # As if trial 3 had been told in its last moment: another value than was measured.
        connection.execute(
            "UPDATE trial_values SET value = 0.97 WHERE trial_id = "
            "(SELECT trial_id FROM trials WHERE number = 3)"
        )
        connection.execute(
            "UPDATE trial_system_attributes SET value_json = ? "
            "WHERE key = 'search:environments' AND "
            "trial_id = (SELECT trial_id FROM trials WHERE number = 4)",
            ('[1, {"device": [2]}]',),
        )
    return made


@pytest.fixture
def overview(folder: Path) -> Iterator[Overview]:
    with closing(Database(f"sqlite:///{folder / 'search.db'}")) as database:
        yield Overview.of_study(database, "digits")


def test_trials_rank_by_what_was_recorded_alone(overview: Overview) -> None:
    ranked = overview.ranked
    assert all(trial.number < 7 for trial in ranked)
    scores = [overview.epochs[trial.number][-1].metrics["test_accuracy"] for trial in ranked]
    assert scores == sorted(scores, reverse=True)
    assert [trial.values[0] for trial in ranked] == scores
    assert max(scores) < INVENTED


def test_values_from_outside_stand_beside_measured_ones(overview: Overview) -> None:
    outsiders = {trial.number for trial in overview.trials if trial.number >= 7}
    ended = {trial.number for trial in overview.trials if trial.state.is_finished()}
    assert overview.told.keys() == {3} | (outsiders & ended)
    measured = overview.epochs[3][-1].metrics["test_accuracy"]
    assert overview.told[3] == (
        f"told from outside: COMPLETE 0.97; measured here: {measured:.4f} after 2 of 2 epochs"
    )
    assert overview.told[7] == ("told from outside: COMPLETE 0.99; measured here: 0 of 2 epochs")


def test_every_reader_goes_on(folder: Path, overview: Overview) -> None:
    best = overview.ranked[0].number
    outputs = {}
    for form in ("json", "markdown", "html"):
        done = run_command(folder, "report", "--study", "digits", "--format", form, "--out", "-")
        assert (done.returncode, done.stderr) == (0, "")
        outputs[form] = done.stdout
    found = json.loads(outputs["json"])
    assert found["best"] == best
    assert found["trials"][7]["value"] is None
    assert found["trials"][7]["told"].startswith("told from outside: COMPLETE 0.99")
    assert found["savings"]["epochs_possible"] == 7 * 2
    pruned = [trial for trial in overview.trials[:7] if trial.state == TrialState.PRUNED]
    assert found["savings"]["pruned"] == len(pruned)
    done = run_command(folder, "search.__main__", "export", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [line["value"] for line in lines[7:]] == [""] * len(lines[7:])
    for form in ("markdown", "html"):
        assert "Finished outside the service" in outputs[form]
        assert "told from outside: COMPLETE 0.99; measured here: 0 of 2 epochs" in outputs[form]
    url = f"sqlite:///{folder / 'search.db'}"
    assert find(url, "digits", "best", artifacts=folder / "artifacts").is_file()
    with pytest.raises(UserError, match="trial 7: it is COMPLETE, and its weights were not kept"):
        find(url, "digits", 7, artifacts=folder / "artifacts")
    for trial in ("7", "8", "9", "10", "12", "13", "14", "15"):
        done = run_command(folder, "reproduce", *STUDY, "--trial", trial)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1
    for trial in ("best", "4"):
        done = run_command(folder, "reproduce", *STUDY, "--trial", trial)
        assert (done.returncode, done.stderr) == (0, "")
    assert "what it was trained with is not recorded" in done.stdout
    done = run_command(folder, "reproduce", *STUDY, "--top", "2", "--repeats", "1")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_search_goes_on(folder: Path) -> None:
    done = run_command(folder, "run", *SEARCH[:-1], "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert "told from outside: COMPLETE 0.99" in done.stdout
    assert re.search(r"│ base +│ 0 +│ +0\.\d{4} │ +0\.\d{4} \(\d\) │", done.stdout)
    with closing(Database(f"sqlite:///{folder / 'search.db'}")) as database:
        study = optuna.load_study(study_name="digits", storage=database.optuna)
        note = get_note(study)
        assert [line for line in note.splitlines() if "0.99" in line] == [
            "- trial 7: told from outside: COMPLETE 0.99; measured here: 0 of 2 epochs"
        ]
        assert re.search(
            r"\n\| base \| \[0\]\(trials\?numbers=0\) \| 0\.\d{4} \| 0\.\d{4} \(\d\) \|\n", note
        )
        failed = study.trials[14]
        assert (failed.state, failed.user_attrs["reason"]) == (
            TrialState.FAIL,
            "cannot be run: lr must be a number from 0.0001 to 0.1, not 7",
        )
        failed = study.trials[17]
        assert (failed.state, failed.user_attrs["reason"]) == (
            TrialState.FAIL,
            "cannot be run: fixed_params is a dict, not [1]",
        )
        assert study.trials[18].state == TrialState.COMPLETE
        trained = Overview.of_study(database, "digits")
        assert trained.ranked.index(trained.trials[18]) < trained.ranked.index(trained.trials[0])
    url, artifacts = f"sqlite:///{folder / 'search.db'}", folder / "artifacts"
    assert find(url, "digits", "base", artifacts=artifacts) == find(
        url, "digits", 0, artifacts=artifacts
    )


def test_an_epoch_that_is_recorded_after_somebody_ended_its_trial_is_seen(
    database: Database, study: Study
) -> None:
    """Its worker learns of the end only when it records the next one."""
    joined = join(database, study, data_digest="none")
    key, observer = study_ref(joined).key, Observer(database, joined)
    trial = joined.ask()
    claim = Claim(study_key=key, trial_id=1, number=trial.number, worker="me", until=3)
    with database.engine.begin() as connection:
        grant(connection, claim, process=ProcessIdentity.current(), seconds=60)
    joined.tell(trial, INVENTED)
    assert not observer.look().epochs
    row = columns(epoch(1, test_accuracy=0.5))
    with database.engine.begin() as connection:
        connection.execute(insert(epochs).values(study_key=key, trial=trial.number, **row))
    (seen,) = observer.look().epochs[trial.number]
    assert seen.metrics == {"test_accuracy": 0.5}
