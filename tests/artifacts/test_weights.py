"""The weights that a search keeps: whose, whole after any kill, listed, found, and loaded again."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
import torch
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna.trial import TrialState
from PIL import Image

from search.database.database import Database
from search.database.identity import study_ref
from search.database.optuna_internals import trial_id
from search.errors import UserError
from search.vision.images import load_dataset
from search.weights import find, load, state
from search.worker.state import dump
from tests.support.commands import run_command
from tests.support.kept_weights import check, expected_numbers, stored_sums
from tests.support.wsgi import get

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("test_weights")]

OPTIONS = ("--study", "digits", "--name", "cifar", "--images", "160", "--epochs", "1",
           "--threads", "1", "--trials", "20")  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search; its name and database are those of the README's lines."""
    folder = tmp_path_factory.mktemp("searched")
    done = run_command(folder, "run", *OPTIONS)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def found(searched: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{searched / 'search.db'}")
    yield database
    database.close()


def _key(database: Database) -> str:
    return study_ref(optuna.load_study(study_name=None, storage=database.optuna)).key


def test_the_three_lines_of_the_page_classify_an_image(searched: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reproducing.md").read_text().splitlines()
    start = page.index("    from search.weights import find, load")
    lines = [line for line in page[start : start + 4] if line]
    assert len(lines) == 3
    Image.new("RGB", (64, 48), "white").save(searched / "frog.png")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[4:] for line in lines)],
        cwd=searched,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    label, probability = done.stdout.strip("()\n").split(", ")
    assert label.strip("'") in set("0123456789")
    assert 0.1 <= float(probability) <= 1


def test_weights_of_the_variants_and_the_best_five_are_kept_and_no_others(
    searched: Path, found: Database
) -> None:
    trials = found.optuna.get_all_trials(1)
    expected = expected_numbers(trials)
    assert 6 <= len(expected) <= 11
    complete = {trial.number for trial in trials if trial.state == TrialState.COMPLETE}
    assert len(complete - expected) > 1
    check(found, searched / "artifacts" / "files", expected)


def test_a_loaded_network_has_the_accuracy_that_the_database_has(
    searched: Path, found: Database
) -> None:
    split = load_dataset("digits", searched).test.between(0, 160)
    (pixels,) = split.parts
    for number in sorted(expected_numbers(found.optuna.get_all_trials(1))):
        classifier = load(find(str(found), "cifar", number, artifacts=searched / "artifacts"))
        with torch.inference_mode():
            scores = classifier.network(pixels.float() / 127.5 - 1)
        hits = (scores.argmax(1) == split.labels).sum().item()
        (*_, last) = found.epochs(_key(found), number)
        assert hits / len(split) == last.metrics["test_accuracy"]
        assert classifier.about.about.metrics == last.metrics


def test_best_variant_and_number_find_the_same_weights_by_name(
    searched: Path, found: Database
) -> None:
    trials = found.optuna.get_all_trials(1)
    best = optuna.load_study(study_name="cifar", storage=found.optuna).best_trial
    artifacts = searched / "artifacts"
    for asked, number in (("best", best.number), ("question-3", 3), ("3", 3), (3, 3)):
        about = load(find(str(found), "cifar", asked, artifacts=artifacts)).about.about
        assert (about.study, about.trial) == ("cifar", number)
        assert about.variant == trials[number].user_attrs.get("variant")
        assert about.params == trials[number].params


def test_the_dashboard_lists_the_weights_and_hands_them_out(
    searched: Path, found: Database
) -> None:
    folder = searched / "artifacts" / "files"
    app = optuna_dashboard.wsgi(found.optuna, FileSystemArtifactStore(folder))
    trial, *_ = found.optuna.get_all_trials(1)
    trials = json.loads(get(app, "/api/studies/1"))["trials"]
    artifacts = {one["number"]: one["artifacts"] for one in trials}
    expected = expected_numbers(found.optuna.get_all_trials(1))
    assert {number for number, listed in artifacts.items() if listed} == expected
    (listed,) = artifacts[0]
    metas = get_all_artifact_meta(trial, storage=found.optuna)
    assert [dataclasses.asdict(meta) for meta in metas] == artifacts[0]
    assert listed["filename"] == "cifar-0.safetensors"
    content = get(app, f"/artifacts/1/{trial_id(trial)}/{listed['artifact_id']}")
    assert hashlib.sha256(content).hexdigest() == stored_sums(found)[trial.number]
    downloaded = searched / listed["filename"]
    download_artifact(
        artifact_store=FileSystemArtifactStore(folder),
        artifact_id=listed["artifact_id"],
        file_path=str(downloaded),
    )
    assert load(downloaded).about.about.variant == "base"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"storage": "sqlite:///none.db"}, "there is no such file"),
        ({"study": "cifra"}, "study cifra: .*search.db has no such study; it has cifar"),
        ({"trial": 99}, "no such trial; it has 0 to 19, best, base, question-1"),
        ({"trial": "question-9"}, "trial question-9: the study has no such trial"),
        (
            {"artifacts": "elsewhere"},
            "its weights are not in elsewhere/files; name the folder or",
        ),
    ],
)
def test_missing_weights_are_refused(
    searched: Path, change: dict[str, Any], complaint: str
) -> None:
    asked: dict[str, Any] = {
        "storage": f"sqlite:///{searched / 'search.db'}",
        "study": "cifar",
        "trial": "base",
        "artifacts": searched / "artifacts",
    }
    assert find(**asked).is_file()
    with pytest.raises(UserError, match=complaint) as refused:
        find(**asked | change)
    assert "\n" not in str(refused.value)
    assert not Path("none.db").exists()


def test_weights_that_were_not_kept_or_are_damaged_are_refused(
    searched: Path, found: Database
) -> None:
    artifacts = searched / "artifacts"
    others = set(range(20)) - expected_numbers(found.optuna.get_all_trials(1))
    with pytest.raises(UserError, match=r"weights were not kept; the study has those of .*\d base"):
        find(str(found), "cifar", min(others), artifacts=artifacts)
    path = find(str(found), "cifar", "base", artifacts=artifacts)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match="is damaged: its SHA-256 is "):
            find(str(found), "cifar", "base", artifacts=artifacts)
    finally:
        path.write_bytes(content)


def test_a_state_is_read_by_its_own_function_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine-3.state"
    path.write_bytes(dump({"model": torch.arange(3), "lr": 0.1}))
    found = state(path)
    assert torch.equal(found["model"], torch.arange(3))
    assert found["lr"] == 0.1
    with pytest.raises(UserError, match="it is the state of a training and no image classifier"):
        load(path)
    path.write_bytes(b"odd")
    for other in (path, tmp_path / "none.state"):
        with pytest.raises(UserError, match=f"state {other}: no state of a training"):
            state(other)
