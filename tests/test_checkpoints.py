from pathlib import Path
from typing import Any

import pytest
import torch

from search.checkpoints import Checkpoints

CPU = torch.device("cpu")
STATE: dict[str, Any] = {
    "network": {"weight": torch.arange(6.0).view(2, 3)},
    "optimizer": {"state": {0: {"n": 1}}},
}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_checkpoint_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    sha256 = checkpoints.save(3, 2, STATE)
    state = checkpoints.load(3, 2, sha256, CPU)
    assert state is not None
    assert torch.equal(state["network"]["weight"], STATE["network"]["weight"])
    assert state["optimizer"] == STATE["optimizer"]


def test_a_damaged_missing_or_other_checkpoint_is_not_loaded(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    sha256 = checkpoints.save(3, 2, STATE)
    assert checkpoints.load(3, 1, sha256, CPU) is None
    assert checkpoints.load(3, 2, None, CPU) is None
    assert checkpoints.load(3, 2, "0" * 64, CPU) is None
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoints.load(3, 2, sha256, CPU) is None


def test_only_the_wanted_checkpoints_of_a_trial_are_kept(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    for number, epoch in ((3, 1), (3, 2), (33, 1)):
        checkpoints.save(number, epoch, STATE)
    checkpoints.keep_only(3, 2)
    assert _names(tmp_path) == {"3-2.pt", "33-1.pt"}
    checkpoints.keep_only(3, None)
    assert _names(tmp_path) == {"33-1.pt"}


def test_what_ended_trials_left_is_swept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for number in (3, 4):
        checkpoints.save(number, 1, STATE)
    (tmp_path / "4-2.123.tmp").touch()
    checkpoints.sweep(begun={3})
    assert _names(tmp_path) == {"3-1.pt"}


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").touch()  # a file where the folder was: not even root can write there
    with pytest.raises(OSError, match="Not a directory"):
        checkpoints.save(3, 1, STATE)
    assert _names(tmp_path) == {"folder"}
