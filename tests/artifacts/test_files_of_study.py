import pytest

from search.artifacts.files_of_study import StudyFiles
from search.artifacts.store import Artifacts

STATE = bytes(range(256)) * 8


@pytest.fixture
def files(artifacts: Artifacts) -> StudyFiles:
    return StudyFiles(artifacts, "0a")


def test_file_is_read_as_it_was_written(files: StudyFiles) -> None:
    sha256 = files.write(3, STATE, epoch=2)
    assert files.read(3, sha256, epoch=2) == STATE


def test_damaged_missing_or_other_file_is_not_read(files: StudyFiles, artifacts: Artifacts) -> None:
    sha256 = files.write(3, STATE, epoch=2)
    assert files.read(3, sha256, epoch=1) is None
    assert files.read(3, "0" * 64, epoch=2) is None
    (artifact_id,) = artifacts.ids("0a-3-2-")
    content = bytearray(artifacts.read(artifact_id) or b"")
    content[len(content) // 2] ^= 1
    artifacts.write(artifact_id, bytes(content))
    assert files.read(3, sha256, epoch=2) is None


def test_worker_does_not_overwrite_the_file_of_another(files: StudyFiles) -> None:
    sha256 = files.write(3, STATE, epoch=2)
    files.write(3, STATE[1:], epoch=2)
    assert files.read(3, sha256, epoch=2) is not None
