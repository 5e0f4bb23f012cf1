"""Where the files of all studies are: a folder, or a bucket of S3.

Checkpoints and weights lie side by side in one artifact store of Optuna's, since a dashboard reads
a single one, and takes only hexadecimal digits and hyphens in an id. What the ids mean is for
`search.artifacts.study_files`.
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
    """A place for files. Any number of processes may use it at once."""

    @property
    def store(self) -> ArtifactStore:
        """The same files for Optuna and its dashboard."""

    def check(self) -> None:
        """Leave nothing behind.

        Raises:
            UserError: there is no such place, or it cannot be written to.
        """

    def write(self, artifact_id: str, content: bytes) -> None:
        """Raises:
        OSError: there is no room or no answer; nothing of the file is left.
        """

    def read(self, artifact_id: str) -> bytes | None:
        """Return the file; None if there is none.

        Raises:
            OSError: it cannot be read, or there is no answer.
        """

    def remove(self, artifact_id: str) -> None:
        """Remove the file if it is there; one that cannot be removed costs only its space."""

    def ids(self, prefix: str) -> list[str]:
        """Return the ids that begin so, and the names of files that were written in part.

        Raises:
            OSError: there is no answer.
        """

    def fetch(self, artifact_id: str, sha256: str) -> Path:
        """Return where the file is on this machine, copied here if need be; whether it is there,
        and of this sum, is the caller's to see.

        Raises:
            OSError: there is no answer, or no room for the copy.
            UserError: the folder for copies is another user's.
        """


def open_artifacts(where: str) -> Artifacts:
    """Return the place that `--artifacts` names; whether it can be used is for its `check`.

    Raises:
        UserError: the URL is malformed, or boto3 is not installed.
    """
    url = _URL.fullmatch(where)
    if url is None:
        return Folder(Path(where))
    if url[1] != "s3":
        raise UserError(f"--artifacts: a folder and s3://BUCKET/PREFIX are known, not {url[1]!r}")
    named = _BUCKET.fullmatch(where)
    if named is None:  # what was given may hold a secret
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
    """Return the same place for a process whose working folder is another one."""
    return where if _URL.fullmatch(where) else str(Path(where).absolute())
