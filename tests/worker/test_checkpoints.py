from typing import Any

import pytest
import torch

from search.artifacts.store import Artifacts
from search.artifacts.study_files import Store
from search.worker.checkpoints import Checkpoints

CPU = torch.device("cpu")
STATE: dict[str, Any] = {
    "network": {"weight": torch.arange(6.0).view(2, 3)},
    "optimizer": {"state": {0: {"n": 1}}},
}


@pytest.fixture
def checkpoints(artifacts: Artifacts) -> Checkpoints:
    return Checkpoints(Store(artifacts, "0a"))


def test_a_checkpoint_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    sha256 = checkpoints.save(3, 2, STATE)
    state = checkpoints.load(3, 2, sha256, CPU)
    assert state is not None
    assert torch.equal(state["network"]["weight"], STATE["network"]["weight"])
    assert state["optimizer"] == STATE["optimizer"]


def test_a_damaged_missing_or_other_checkpoint_is_not_loaded(
    checkpoints: Checkpoints, artifacts: Artifacts
) -> None:
    sha256 = checkpoints.save(3, 2, STATE)
    assert checkpoints.load(3, 1, sha256, CPU) is None
    assert checkpoints.load(3, 2, "0" * 64, CPU) is None
    (artifact_id,) = artifacts.ids("0a-3-2-")
    content = bytearray(artifacts.read(artifact_id) or b"")
    content[len(content) // 2] ^= 1
    artifacts.write(artifact_id, bytes(content))
    assert checkpoints.load(3, 2, sha256, CPU) is None


def test_a_worker_does_not_overwrite_anothers_checkpoint(checkpoints: Checkpoints) -> None:
    sha256 = checkpoints.save(3, 2, STATE)
    checkpoints.save(3, 2, {"network": {}, "optimizer": {}})
    assert checkpoints.load(3, 2, sha256, CPU) is not None
