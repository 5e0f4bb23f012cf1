"""Checkpoints: the state of a trial after its last finished epoch, for whoever takes it over.

The files are for `search.artifacts.study_files`: each is whole or not there, and named by the
SHA-256 that the database holds.
"""

import io
from collections.abc import Mapping
from typing import Any

import torch

from search.artifacts.study_files import Store


class Checkpoints:
    """The checkpoints of one study, where its workers may share them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, trial_number: int, epoch: int, state: Mapping[str, Any]) -> str:
        """Write `state` and return its SHA-256 in hexadecimal.

        Raises:
            OSError: there is no room or no answer; nothing of the file is left.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return self._store.write(trial_number, buffer.getvalue(), epoch=epoch)  # not copied

    def load(
        self, trial_number: int, epoch: int, sha256: str, device: torch.device
    ) -> Mapping[str, Any] | None:
        """Return the state on `device`; None if there is no file here whose sum is `sha256`."""
        content = self._store.read(trial_number, sha256, epoch=epoch)
        if content is None:
            return None
        state: Mapping[str, Any] = torch.load(
            io.BytesIO(content), map_location=device, weights_only=True
        )
        return state
