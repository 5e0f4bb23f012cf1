"""The command, as a user types it, after a search on digits."""

import csv
import dataclasses
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from search.analysis.rerun_metrics import read, repeats
from search.database.database import Database
from search.database.studies import stored_definition
from tests.support.commands import Command
from tests.support.databases import overview

QUICK = ("--study", "digits", "--threads", 1)
SEARCH = (*QUICK, "--images", 160, "--epochs", 3)


def test_a_trial_is_replayed_with_more_threads_than_there_are_cores(
    search: Command, tmp_path: Path
) -> None:
    threads = 2 * (os.cpu_count() or 1) + 1
    options = ("--images", 100, "--epochs", 1, "--trials", 1, "--threads", 1)
    assert search("run", "--study", "digits", *options).returncode == 0
    with closing(sqlite3.connect(tmp_path / "search.db")) as connection, connection:
        # As a machine of more cores stores it.
        connection.execute(
            "UPDATE trial_system_attributes SET value_json = "
            "replace(value_json, '\"threads\": 1', ?) WHERE key = 'search:environments'",
            [f'"threads": {threads}'],
        )
    done = search("reproduce", "--study", "digits", "--trial", "best")
    assert f"Replaying trial 0 with {threads} threads, as it was trained." in done.stdout
    assert "metrics" in done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_a_stored_figure_that_is_wrong_is_found(search: Command, tmp_path: Path) -> None:
    from sqlalchemy import text

    assert search("run", *SEARCH, "--trials", 1).returncode == 0
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE search_epochs SET metrics = json_set(metrics, '$.test_loss', "
                "metrics ->> 'test_loss' + 0.25) WHERE number = 2"
            )
        )
    database.close()
    done = search("reproduce", *QUICK, "--trial", 0)
    assert done.returncode == 1
    assert "The metrics differ, at most test_loss by 0.25" in done.stdout
    assert "none recorded" in done.stdout


def test_variants_are_repeated_with_paired_seeds_in_a_study_of_their_own(
    search: Command, tmp_path: Path
) -> None:
    options = (*SEARCH, "--variant", "base", "--variant", "question-3", "--repeats", 2)
    stopped = search("reproduce", *options, "--timeout", 0.001)
    assert stopped.returncode == 0
    assert "run the same command to resume" in stopped.stdout
    done = search("reproduce", *options, "--out", "runs.csv")
    assert done.returncode == 0, done.stderr
    assert "question-3, 2 seeds" in done.stdout
    before = overview(tmp_path, "digits-reproduced")
    seeds = {
        (t.user_attrs["variant"], t.user_attrs["repeat"]): t.user_attrs["seed"]
        for t in before.trials
    }
    assert len(seeds) == len(before.trials) == 4
    assert seeds["base", 0] == seeds["question-3", 0] != seeds["base", 1]
    figures = {
        name: {k: [dataclasses.replace(e) for e in epochs] for k, epochs in runs.items()}
        for name, runs in repeats(before).items()
    }
    assert read(tmp_path / "runs.csv") == figures
    compared = search("reproduce", "--study", "digits", "--compare", "runs.csv")
    assert compared.stdout in done.stdout
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    assert stored_definition(database, "digits") is None
    database.close()


def test_variants_are_repeated_as_the_search_has_them(search: Command, tmp_path: Path) -> None:
    options = ("--images", 100, "--epochs", 1, "--seed", 5)
    assert search("run", *QUICK, *options, "--trials", 1).returncode == 0
    done = search("reproduce", *QUICK, "--variant", "base", "--epochs", 2, "--out", "runs.csv")
    assert done.returncode == 0, done.stderr
    assert "base, 1 seed, the first 100 of 1438 images, 2 epochs" in done.stdout
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    definition = stored_definition(database, "digits-reproduced")
    database.close()
    assert definition is not None
    assert [definition[name] for name in ("images", "epochs", "seed")] == [100, 2, 5]
    with (tmp_path / "runs.csv").open(newline="") as lines:
        settings = json.loads(next(csv.DictReader(lines))["settings"])
    assert settings.items() >= {
        "dataset": "digits", "images": 100, "epochs": 2, "batch_size": 32, "metric": "test_accuracy"
    }.items()  # fmt: skip


def test_the_best_are_trained_with_the_same_fresh_seeds(search: Command, tmp_path: Path) -> None:
    assert search("run", *SEARCH, "--trials", 4).returncode == 0
    before = overview(tmp_path, "digits")
    best = before.ranked[:2]
    stopped = search("reproduce", *QUICK, "--trial", "best", "--repeats", 2, "--timeout", 0.001)
    assert "run the same command to resume" in stopped.stdout
    done = search("reproduce", *QUICK, "--trial", "best", "--repeats", 2)
    assert done.returncode == 0, done.stderr
    both = search("reproduce", *QUICK, "--top", 2, "--repeats", 2, "--out", "runs.csv")
    assert both.returncode == 0, both.stderr
    after = overview(tmp_path, "digits-rerun")
    seeds = {(t.user_attrs["trial"], t.user_attrs["repeat"]): t for t in after.trials}
    assert seeds.keys() == {(trial.number, repeat) for trial in best for repeat in (0, 1)}
    assert len(after.trials) == 4, "what was there is not trained again"
    for repeat in (0, 1):
        pair = [seeds[trial.number, repeat] for trial in best]
        assert len({trial.user_attrs["seed"] for trial in pair}) == 1
        assert [trial.params for trial in pair] == [trial.params for trial in best]
    honest = [seeds[best[0].number, repeat].values[0] for repeat in (0, 1)]
    assert f"{best[0].values[0]:.4f}" in done.stdout
    assert f"{sum(honest) / 2:.4f} ± " in done.stdout
    assert read(tmp_path / "runs.csv").keys() == {f"trial {trial.number}" for trial in best}
    assert overview(tmp_path, "digits").trials == before.trials
    measured = [epoch.metrics.keys() for trial in after.trials for epoch in after.of(trial)]
    assert len(measured) == 12
    assert not any("train_loss" in names for names in measured), "of which nobody asks"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--variant", "question-9"], "no such variant; known: base, question-1,"),
        (["--trial", "3"], "sqlite:///search.db has no study of this name"),
        (["--trial", "3", "--epochs", "2"], "--epochs: --trial uses the study's value"),
        (["--top", "2", "--seed", "2"], "--seed: --top uses the study's value"),
        (["--top", "2"], "sqlite:///search.db has no study of this name"),
        (["--trial", "3", "--variant", "base"], "not allowed with argument"),
        (["--repeats", "0"], "--repeats: a whole number from 1 to 1000"),
        (["--compare", "none.csv"], "--compare none.csv: not a file written by --out"),
    ],
)
def test_a_trial_that_cannot_be_reproduced_is_refused(
    search: Command, tmp_path: Path, options: list[str], complaint: str
) -> None:
    Database(f"sqlite:///{tmp_path / 'search.db'}").close()
    done = search("reproduce", "--study", "digits", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_trial_that_is_not_there_is_refused(search: Command) -> None:
    search("run", *SEARCH, "--trials", 1)
    done = search("reproduce", *QUICK, "--trial", 99)
    assert done.returncode == 2
    assert "--trial 99: the study has no such trial; it has 0 to 5" in done.stderr
    waiting = search("reproduce", *QUICK, "--trial", 5)
    assert waiting.returncode == 2
    assert "it is WAITING with 0 epochs" in waiting.stderr
    fresh = search("reproduce", *QUICK, "--trial", 5, "--repeats", 2)
    assert fresh.returncode == 2
    assert "it is WAITING, and only a completed trial has a metric to compare" in fresh.stderr
