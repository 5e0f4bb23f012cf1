"""What Optuna's dashboard offers of a trial: there, whole, and gone with the file."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna_dashboard
import pytest
from optuna.artifacts import get_all_artifact_meta, upload_artifact
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search.artifacts.retention import Retention
from search.artifacts.store import Artifacts
from search.database.leases import LeaseLost
from search.study.study import Study
from tests.support.process import Killed, Process, killed_at
from tests.support.wsgi import get


@pytest.fixture
def process(study: Study, tmp_path: Path, place: str) -> Iterator[Process]:
    made = Process(f"sqlite:///{tmp_path / 'search.db'}", study, tmp_path, artifacts=place)
    yield made
    made.close()


def _listed(process: Process, number: int = 0) -> dict[str, str]:
    """Artifact id by filename."""
    # A new storage each time: one keeps what it has read of an ended trial.
    storage = RDBStorage(process.database.url.render_as_string())
    trial = storage.get_all_trials(1)[number]
    return {one.filename: one.artifact_id for one in get_all_artifact_meta(trial, storage=storage)}


def test_a_running_trials_newest_checkpoint_is_offered_and_handed_out(
    process: Process, artifacts: Artifacts
) -> None:
    seen: list[dict[str, str]] = []
    storage = process.database.optuna
    app = optuna_dashboard.wsgi(storage, artifacts.store)

    def look(batches: int) -> None:
        if batches == 1:
            seen.append(listed := _listed(process))
            for artifact_id in listed.values():
                content = get(app, f"/artifacts/1/1/{artifact_id}")
                sha256 = process.database.checkpoint_sha256(claim, len(seen) - 1)
                assert hashlib.sha256(content).hexdigest() == sha256

    claim = process.claim()
    process.run(claim, look)
    assert [list(names) for names in seen] == [
        [], ["small-0-epoch-1.pt"], ["small-0-epoch-2.pt"], ["small-0-epoch-3.pt"],
    ]  # fmt: skip
    after = _listed(process)
    assert set(after) == {"small-0.safetensors"}
    assert set(artifacts.ids("")) == set(after.values())


def test_a_trials_list_is_cleared_before_it_ends(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A dashboard keeps for good what it has read of an ended trial.
    monkeypatch.setattr(Retention, "clean", lambda kept: None)
    process.work()
    for trial in process.trials:
        complete = trial.state == TrialState.COMPLETE
        expected = {f"small-{trial.number}.safetensors"} if complete else set()
        assert set(_listed(process, trial.number)) == expected
    assert TrialState.PRUNED in {trial.state for trial in process.trials}


def test_a_users_upload_stays_listed(
    process: Process, artifacts: Artifacts, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")

    def upload(batches: int) -> None:
        if batches == 1 and len(process.figures()[0]) == 1:
            upload_artifact(
                artifact_store=artifacts.store,
                file_path=str(tmp_path / "note.txt"),
                study_or_trial=process.trials[0],
                storage=process.database.optuna,
            )

    process.run(process.claim(), upload)
    process.kept.sweep()
    assert set(_listed(process)) == {"note.txt", "small-0.safetensors"}
    assert artifacts.read(_listed(process)["note.txt"]) == b"mine"


def test_a_checkpoint_that_cannot_be_written_is_not_listed(
    process: Process, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Artifacts, artifact_id: str, content: bytes) -> None:
        raise OSError("no room")

    def fill(batches: int) -> None:
        if batches == 1 and len(process.figures()[0]) == 1:
            assert list(_listed(process)) == ["small-0-epoch-1.pt"]
            monkeypatch.setattr(type(artifacts), "write", full)

    with pytest.raises(Killed):
        process.run(process.claim(), _both(fill, killed_at(23)))
    assert len(process.figures()[0]) == 2
    assert _listed(process) == {}
    assert artifacts.ids("") == []


def test_a_worker_that_lost_its_trial_lists_nothing(process: Process, artifacts: Artifacts) -> None:
    claim = process.claim()

    def lose(batches: int) -> None:
        if batches == 1 and len(process.figures()[0]) == 1:
            process.claims.release(claim)

    with pytest.raises(LeaseLost):
        process.run(claim, lose)
    listed = _listed(process)
    assert list(listed) == ["small-0-epoch-1.pt"]
    assert artifacts.read(listed["small-0-epoch-1.pt"]) is not None


def _both(*callbacks: Callable[[int], None]) -> Callable[[int], None]:
    def call(batches: int) -> None:
        for callback in callbacks:
            callback(batches)

    return call


def test_of_an_interrupted_trial_beyond_the_budget_nothing_is_left(
    process: Process, artifacts: Artifacts
) -> None:
    claim = process.claim()
    with pytest.raises(Killed):
        process.run(claim, killed_at(12))
    (checkpoint,) = _listed(process).values()
    process.kept.clean()
    assert artifacts.ids("") == [checkpoint]  # it still runs
    process.database.optuna.set_trial_state_values(claim.trial_id, TrialState.FAIL)
    process.kept.clean()
    assert _listed(process) == {}
    assert artifacts.ids("") == []
