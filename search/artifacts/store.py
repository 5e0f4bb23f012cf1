"""The place for the files of all studies: a folder, or an S3 bucket.

Checkpoints and weights share one artifact store, since the dashboard reads a single one. It accepts
only hexadecimal digits and hyphens in ids; see `search.artifacts.files_of_study` for their meaning.
"""

import re
from pathlib import Path
from typing import BinaryIO, Protocol

from search.artifacts.local import Folder
from search.errors import UserError

_URL = re.compile(r"(\w+):/.*", re.DOTALL)
_BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([\w.!*'()/-]*))?", re.ASCII)


class ArtifactStore(Protocol):
    """What Optuna's dashboard needs of a place for files, as `optuna.artifacts` has stores."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Raises:
        ArtifactNotFound: there is no such file.
        """

    def write(self, artifact_id: str, content_body: BinaryIO) -> None: ...

    def remove(self, artifact_id: str) -> None:
        """Raises:
        ArtifactNotFound: there is no such file.
        """


class Artifacts(Protocol):
    """A place for files, which any number of processes may use at once."""

    @property
    def store(self) -> ArtifactStore:
        """The same files as a store of Optuna's."""

    def check(self) -> None:
        """Check that the place can be used; leave nothing behind.

        Raises:
            UserError: the place does not exist, or it cannot be written to.
        """

    def write(self, artifact_id: str, content: bytes) -> None:
        """Raises:
        OSError: there is no space or no answer; no part of the file remains.
        """

    def read(self, artifact_id: str) -> bytes | None:
        """Return the file; None if there is none.

        Raises:
            OSError: the file cannot be read, or there is no answer.
        """

    def remove(self, artifact_id: str) -> None:
        """Remove the file if it exists; errors are ignored, since they only cost space."""

    def ids(self, prefix: str) -> list[str]:
        """Return the ids with this prefix, and the names of partly written files.

        Raises:
            OSError: there is no answer.
        """

    def fetch(self, artifact_id: str, sha256: str) -> Path:
        """Return the local path, downloading the file if necessary.

        The caller must check that the file exists and matches `sha256`.

        Raises:
            OSError: there is no answer, or no space for the copy.
            UserError: the folder for copies belongs to another user.
        """


def open_artifacts(where: str) -> Artifacts:
    """Return the place that `--artifacts` names; call its `check` before using it.

    Raises:
        UserError: the URL is malformed, or boto3 is not installed.
    """
    url = _URL.fullmatch(where)
    if url is None:
        return Folder(Path(where))
    if url[1] != "s3":
        raise UserError(f"--artifacts: a folder and s3://BUCKET/PREFIX are known, not {url[1]!r}")
    named = _BUCKET.fullmatch(where)
    if named is None:  # the value may contain a secret
        raise UserError(
            "--artifacts: a bucket is s3://BUCKET/PREFIX, without anything else; boto3 finds "
            "credentials and endpoint, as in AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
        )
    try:
        from search.artifacts.s3 import Bucket
    except ImportError as error:
        raise UserError(
            f"--artifacts {where}: it needs the extra `s3`: pip install '.[s3]'"
        ) from error
    return Bucket(named[1], named[2] or "")


def from_any_folder(where: str) -> str:
    """Return the place with an absolute path, for a process in another folder."""
    return where if _URL.fullmatch(where) else str(Path(where).absolute())
