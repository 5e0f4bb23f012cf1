"""The files of kept weights, laid out as Optuna's `FileSystemArtifactStore` has them.

One folder holds those of all studies, since a dashboard reads a single one. A file is written whole
or not at all, and its name is its artifact's id: of the study, the trial and the SHA-256, so that
the same weights have the same name, and no worker overwrites another's.
"""

import hashlib
from collections.abc import Set
from pathlib import Path

from search.files import remove, write_whole

FOLDER = "weights"
"""Among the artifacts: the folder that the dashboard reads."""


class Store:
    """The weights of one study, in a folder that its workers, and other studies, may share."""

    def __init__(self, folder: Path, key: str) -> None:
        """`key` tells the study from all others, in hexadecimal digits: the dashboard takes only
        those, and hyphens, in an id."""
        self._folder = folder
        self._key = key

    def artifact_id(self, number: int, sha256: str) -> str:
        return f"{self._key}-{number}-{sha256[:16]}"

    def write(self, number: int, content: bytes) -> str:
        """Write the weights of trial `number` and return their SHA-256 in hexadecimal.

        Raises:
            OSError: the folder is full or not writable; nothing of the file is left.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._folder / self.artifact_id(number, sha256)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        return sha256

    def has(self, number: int, sha256: str) -> bool:
        """Return whether the weights of that sum are here, undamaged."""
        return file_sha256(self._folder / self.artifact_id(number, sha256)) == sha256

    def remove(self, artifact_id: str) -> None:
        remove(self._folder / artifact_id)

    def keep_only(self, number: int, sha256: str | None) -> None:
        """Remove the trial's files but the one of this sum; all of them for None."""
        wanted = None if sha256 is None else self.artifact_id(number, sha256)
        for path in self._folder.glob(f"{self._key}-{number}-*"):
            if path.name != wanted:
                remove(path)

    def sweep(self, wanted: Set[str], begun: Set[int]) -> None:
        """Remove what killed workers left: all but the ids `wanted` and the trials `begun`."""
        for path in self._folder.glob(f"{self._key}-*-*"):
            number = path.name.split("-")[1]
            if path.name not in wanted and number.isdigit() and int(number) not in begun:
                remove(path)


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file in hexadecimal; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
