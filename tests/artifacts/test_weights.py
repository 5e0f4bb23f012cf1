"""The weights that a search keeps: whose, whole after any kill, listed, found, and loaded again."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
from search.study.choices import Choices
from search.vision.classifier import About, load, packed
from search.vision.datasets import pictures
from search.vision.images import load_dataset
from search.vision.network import build
from search.weights import find
from tests.support.kept_weights import check, expected_numbers, stored_sums
from tests.support.wsgi import get

OPTIONS = ("--study", "digits", "--name", "cifar", "--images", "160", "--epochs", "1",
           "--threads", "1", "--trials", "20")  # fmt: skip


def _command(*options: str) -> list[str]:
    return [sys.executable, "-m", "search.run", *OPTIONS, *options]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search; its name and database are those of the README's lines."""
    folder = tmp_path_factory.mktemp("searched")
    done = subprocess.run(_command(), cwd=folder, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def found(searched: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{searched / 'search.db'}")
    yield database
    database.close()


def _key(database: Database) -> str:
    return study_ref(optuna.load_study(study_name=None, storage=database.optuna)).key


def test_the_readmes_three_lines_classify_an_image(searched: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    start = readme.index("    from search.weights import find, load")
    lines = [line for line in readme[start : start + 4] if line]
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
        assert hits / len(split) == last.test_accuracy == classifier.about.test_accuracy


def test_best_variant_and_number_find_the_same_weights_by_name(
    searched: Path, found: Database
) -> None:
    trials = found.optuna.get_all_trials(1)
    best = optuna.load_study(study_name="cifar", storage=found.optuna).best_trial
    artifacts = searched / "artifacts"
    for asked, number in (("best", best.number), ("question-3", 3), ("3", 3), (3, 3)):
        about = load(find(str(found), "cifar", asked, artifacts=artifacts)).about
        assert (about.study, about.trial) == ("cifar", number)
        assert about.variant == trials[number].user_attrs.get("variant")
        assert about.choices.params() == trials[number].params


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
    assert load(downloaded).about.variant == "base"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"storage": "sqlite:///none.db"}, "there is no such file"),
        ({"study": "cifra"}, "study cifra: .*search.db has no such study; it has cifar"),
        ({"trial": 99}, "no such trial; it has 0 to 19, best, base, question-1"),
        ({"trial": "question-9"}, "trial question-9: the study has no such trial"),
        ({"artifacts": "elsewhere"}, "its weights are not in elsewhere/files; give `artifacts`"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
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


@pytest.fixture
def about(base: Choices) -> About:
    return About(
        study="x",
        trial=3,
        variant=None,
        choices=base,
        channels=3,
        size=32,
        n_classes=10,
        classes=(),
        test_accuracy=0.7,
        validation_accuracy=None,
    )


@pytest.fixture
def path(about: About, tmp_path: Path) -> Path:
    network = build(about.choices, channels=3, size=32, n_classes=10, seed=0)
    (tmp_path / "weights").write_bytes(packed(network, about))
    return tmp_path / "weights"


def test_a_file_holds_the_network_and_what_it_is_of(path: Path, about: About) -> None:
    network = build(about.choices, channels=3, size=32, n_classes=10, seed=0)
    classifier = load(path)
    assert classifier.about == about
    assert not classifier.network.training
    ours, theirs = network.state_dict(), classifier.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert packed(network, about) == path.read_bytes()


def test_a_picture_of_the_networks_size_is_what_its_tensor_is(path: Path, tmp_path: Path) -> None:
    classifier = load(path)
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "picture.png")
    expected = classifier.network((pixels.float() / 127.5 - 1).unsqueeze(0)).softmax(1)[0]
    for image in (pixels, picture, tmp_path / "picture.png", str(tmp_path / "picture.png")):
        label, probability = classifier.classify(image)
        assert label == str(int(expected.argmax()))
        assert probability == pytest.approx(expected.max().item(), rel=1e-5)


@pytest.mark.parametrize(("mode", "size"), [("L", (7, 90)), ("RGBA", (300, 32)), ("1", (1, 1))])
def test_a_picture_of_any_size_and_colours_is_classified(
    path: Path, mode: str, size: tuple[int, int]
) -> None:
    _, probability = load(path).classify(Image.new(mode, size))
    assert 0.1 <= probability <= 1


def test_samples_of_more_than_8_bits_are_scaled_as_those_were_that_were_learnt_from(
    about: About, tmp_path: Path
) -> None:
    network = build(about.choices, channels=3, size=32, n_classes=10, seed=0)
    learnt = dataclasses.replace(about, whites={"integer": 4095, "float": 1})
    (tmp_path / "weights").write_bytes(packed(network, learnt))
    classifier = load(tmp_path / "weights")
    assert classifier.about == learnt
    grey = torch.randint(0, 256, (32, 32), dtype=torch.uint8)
    expected = classifier.classify(grey.expand(3, 32, 32))
    twelve = Image.fromarray((grey.numpy() * (4095 / 255)).round().astype(np.uint16))
    floats = Image.fromarray(grey.numpy().astype(np.float32) / 255)
    twelve.save(tmp_path / "12.png")
    floats.save(tmp_path / "float.tif")
    for image in (twelve, floats, tmp_path / "12.png", tmp_path / "float.tif"):
        assert classifier.classify(image) == expected
    brighter = Image.fromarray(np.full((32, 32), 4096, np.uint16))
    with pytest.raises(UserError, match=r"a value of 4096, and white was 4095 .*; scale it"):
        classifier.classify(brighter)


def test_what_is_white_in_one_picture_alone_is_told_by_its_upper_half_or_not_at_all(
    path: Path,
) -> None:
    classifier = load(path)  # of a network that has learnt from 8 bits
    grey = torch.randint(0, 256, (32, 32), dtype=torch.uint8)
    sixteen = Image.fromarray(grey.numpy().astype(np.uint16) * 257)
    assert classifier.classify(sixteen) == classifier.classify(grey.expand(3, 32, 32))
    for unclear in (
        Image.fromarray(np.full((32, 32), 4095, np.uint16)),
        Image.fromarray(np.full((32, 32), 1, np.float32)),
    ):
        with pytest.raises(UserError, match=r"cannot be told from one picture; save it with 8 bit"):
            classifier.classify(unclear)


def test_what_is_no_picture_or_no_file_of_weights_is_refused_in_one_line(
    path: Path, about: About, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = load(path)
    with pytest.raises(UserError, match=r"shape \(3, 32, 32\), not torch.float32 of \(3, 8, 8\)"):
        classifier.classify(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match=r"none.png: No such file or directory; name a picture$"):
        classifier.classify(tmp_path / "none.png")
    with pytest.raises(UserError, match="not a picture of a known kind"):
        classifier.classify(path)
    Image.new("RGB", (99, 99)).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"half.jpg: image file is truncated .*; name a picture$"):
        classifier.classify(tmp_path / "half.jpg")
    with pytest.raises(UserError, match=r"embedded null byte; name a picture$"):
        classifier.classify("x\0.png")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 99)
    with pytest.raises(UserError, match=r"half.jpg: it has 99×99 pixels, and the most is 99; make"):
        classifier.classify(tmp_path / "half.jpg")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="there is no such file; name one that a search kept"):
            load(missing)
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(UserError, match=r"^load .*text: no weights that this service kept \(.*$"):
        load(tmp_path / "text")
    unnamed = dataclasses.replace(about, classes=("cat", "dog"))
    (tmp_path / "unnamed").write_bytes(packed(classifier.network, unnamed))
    with pytest.raises(UserError, match="2 names are given to 10 classes"):
        load(tmp_path / "unnamed")
