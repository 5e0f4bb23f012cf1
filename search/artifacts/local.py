"""Artifacts in a folder, laid out as Optuna's `FileSystemArtifactStore` has them."""

from pathlib import Path
from typing import BinaryIO

from optuna.artifacts import FileSystemArtifactStore

from search.files import check_folder, remove, write_atomic

FILES = "files"
"""The subfolder, as for `optuna-dashboard --artifact-dir`."""


class Folder:
    """A folder as a place for artifacts; several machines may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.files = root / FILES
        self.store = _Store(self.files)

    def __str__(self) -> str:
        return str(self.files)

    def check(self) -> None:
        for folder in (self._root, self.files):
            check_folder(folder, "--artifacts")

    def write(self, artifact_id: str, content: bytes) -> None:
        # Optuna's store leaves a partial file when the disk is full or the process is killed.
        self.files.mkdir(parents=True, exist_ok=True)
        write_atomic(self.files / artifact_id, content)

    def read(self, artifact_id: str) -> bytes | None:
        try:
            return (self.files / artifact_id).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, artifact_id: str) -> None:
        remove(self.files / artifact_id)

    def ids(self, prefix: str) -> list[str]:
        return [path.name for path in self.files.glob(f"{prefix}*")]

    def fetch(self, artifact_id: str, sha256: str) -> Path:
        return self.files / artifact_id


class _Store(FileSystemArtifactStore):
    """Optuna's store, which also creates the folder and writes files atomically."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._base_path.mkdir(parents=True, exist_ok=True)
        write_atomic(self._get_filepath(artifact_id), content_body.read())
