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
    assert checkpoints.load(3, 2, "0" * 64, CPU) is None
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoints.load(3, 2, sha256, CPU) is None


def test_only_the_wanted_checkpoints_of_a_trial_are_kept(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    later: dict[str, Any] = {"network": {}, "optimizer": {}}
    first = checkpoints.save(3, 1, STATE)
    second = checkpoints.save(3, 2, later)
    checkpoints.save(33, 1, STATE)
    (tmp_path / f"3-2-{second[:16]}.9.tmp").touch()
    checkpoints.keep_only(3, second)
    assert _names(tmp_path) == {f"3-2-{second[:16]}.pt", f"33-1-{first[:16]}.pt"}
    checkpoints.keep_only(3, None)
    assert _names(tmp_path) == {f"33-1-{first[:16]}.pt"}


def test_a_worker_does_not_overwrite_anothers_checkpoint(checkpoints: Checkpoints) -> None:
    sha256 = checkpoints.save(3, 2, STATE)
    checkpoints.save(3, 2, {"network": {}, "optimizer": {}})
    assert checkpoints.load(3, 2, sha256, CPU) is not None


def test_what_ended_trials_left_is_swept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    sha256, _ = [checkpoints.save(number, 1, STATE) for number in (3, 4)]
    (tmp_path / "4-2.123.tmp").touch()
    checkpoints.sweep(lambda: {3})
    assert _names(tmp_path) == {f"3-1-{sha256[:16]}.pt"}


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "folder")
    (tmp_path / "folder").touch()  # a file where the folder is to be: not even root can write there
    with pytest.raises(OSError, match="File exists"):
        checkpoints.save(3, 1, STATE)
    assert _names(tmp_path) == {"folder"}
