"""The learning curves that the dashboard draws from the database when somebody looks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from sqlalchemy import insert
from werkzeug.test import Client

from search.database import tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.studies import files_of, join
from search.study.study import Study
from search.web.app import dashboard_app
from tests.support.epochs import columns, epoch
from tests.support.made_up import add, made_up

Open = Callable[[], Client]


@pytest.fixture
def dashboard(database: Database, tmp_path: Path) -> Open:
    """Open the dashboard anew: one that is open gives the same answer for two seconds."""
    (tmp_path / "files").mkdir()
    store = FileSystemArtifactStore(tmp_path / "files")
    return lambda: Client(dashboard_app(database, store))


def _trials(client: Client, study_id: int = 1) -> list[dict[str, Any]]:
    answer = client.get(f"/api/studies/{study_id}")
    assert answer.status_code == 200
    found: list[dict[str, Any]] = json.loads(answer.data)["trials"]
    return found


def _path(trial: dict[str, Any], study_id: int = 1) -> str:
    (listed,) = trial["artifacts"]
    return f"/artifacts/{study_id}/{trial['trial_id']}/{listed['artifact_id']}"


def test_each_trial_with_an_epoch_has_curves_whether_it_has_ended_or_not(
    database: Database, study: Study, dashboard: Open
) -> None:
    made_up(database, study, 4)
    joined = join(database, study, data_digest="none")
    running = joined.ask().number
    first = columns(epoch(1, batch_loss=1.0, test_loss=1.0, test_accuracy=0.5))
    row = {"study_key": study_ref(joined).key, "trial": running, **first}
    with database.engine.begin() as connection:
        connection.execute(insert(tables.epochs).values(row))
    client = dashboard()
    trials = _trials(client)
    assert {t["number"] for t in trials if t["artifacts"]} == {running, 2, 3, 4, 5}
    for trial in (trials[running], *trials[2:]):
        assert trial["artifacts"][0]["filename"] == f"small-{trial['number']}-curves.svg"
        answer = client.get(_path(trial))
        assert answer.content_type.startswith("image/svg+xml")
        assert f"small, trial {trial['number']}" in answer.text
    assert client.get(_path(trials[3]).replace("-3-c", "-99-c")).status_code == 404


@pytest.mark.parametrize("images", [None, 160])
def test_a_variant_has_the_published_curves_that_can_be_compared(
    database: Database, study: Study, dashboard: Open, tmp_path: Path, images: int | None
) -> None:
    path = tmp_path / "figures.csv"
    path.write_text(
        "variant,epoch,train_loss,train_accuracy,test_loss,test_accuracy\n"
        "question-1,1,2,0.1,2,0.1\nquestion-1,2,1,0.5,1,0.5\n"
    )
    study = study.changed({"images": images, "published": path})
    joined = join(database, study, data_digest="none")
    add(database, joined, [0.1, 0.2, 0.3, 0.4], user_attrs={"variant": "question-1"})
    add(database, joined, [0.1, 0.2, 0.3, 0.4])
    client = dashboard()
    *_, variant, other = _trials(client)
    assert ("published" in client.get(_path(variant)).text) == (images is None)
    assert "published" not in client.get(_path(other)).text


def test_curves_are_never_stored_or_deleted(
    database: Database, study: Study, dashboard: Open, tmp_path: Path
) -> None:
    made_up(database, study, 1)
    joined = join(database, study, data_digest="none")
    files, client = files_of(database, study_ref(joined)), dashboard()
    trial = _trials(client)[2]
    client.delete(_path(trial).replace("/artifacts", "/api/artifacts"))
    assert f"{files}-2-c" in _path(_trials(dashboard())[2])
    renamed = client.post("/api/studies/1/rename", json={"study_name": "large"})
    assert renamed.status_code == 201
    there = optuna.load_study(study_name="large", storage=database.uncached)
    assert get_all_artifact_meta(there.trials[2], storage=database.uncached) == []
    assert list((tmp_path / "files").iterdir()) == []
