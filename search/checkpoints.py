"""Checkpoints: the state of a trial after its last finished epoch, for whoever takes it over.

A checkpoint is written whole or not at all, is named by the SHA-256 that the database holds, so
that no worker overwrites another's, and goes when its trial ends.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import torch

from search.files import remove, write_whole


class Checkpoints:
    """The checkpoints of one study, in a folder that its workers may share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, trial_number: int, epoch: int, state: Mapping[str, Any]) -> str:
        """Write `state` and return its SHA-256 in hexadecimal.

        The trial's earlier checkpoints stay until `keep_only` removes them.

        Raises:
            OSError: the folder is full or not writable; nothing of the file is left.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(trial_number, epoch, sha256)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        return sha256

    def load(
        self, trial_number: int, epoch: int, sha256: str, device: torch.device
    ) -> Mapping[str, Any] | None:
        """Return the state on `device`; None if there is no file here whose sum is `sha256`."""
        try:
            content = self._path(trial_number, epoch, sha256).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        state: Mapping[str, Any] = torch.load(
            io.BytesIO(content), map_location=device, weights_only=True
        )
        return state

    def keep_only(self, trial_number: int, sha256: str | None) -> None:
        """Remove the trial's checkpoints but the one of this sum; all of them for None."""
        for path in self._folder.glob(f"{trial_number}-*"):
            if sha256 is None or path.suffixes != [".pt"] or sha256[:16] not in path.name:
                remove(path)

    def sweep(self, begun: Callable[[], Set[int]]) -> None:
        """Remove what killed workers left of trials that have ended: of all but those `begun`."""
        # The files first: a trial whose file is here by now had begun before it is asked for.
        paths = list(self._folder.glob("*-*"))
        running = begun()
        for path in paths:
            number = path.name.partition("-")[0]
            if number.isdigit() and int(number) not in running:
                remove(path)

    def _path(self, trial_number: int, epoch: int, sha256: str) -> Path:
        return self._folder / f"{trial_number}-{epoch}-{sha256[:16]}.pt"
