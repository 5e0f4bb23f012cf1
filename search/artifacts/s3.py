"""Artifacts in an S3 bucket, or on a server with the same protocol.

boto3 finds credentials, region and endpoint in the environment, in its files, or from the machine's
role. They never appear in output.
"""

import io
import re
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from optuna.artifacts import Boto3ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from search.errors import UserError
from search.files import file_sha256, private_temp_folder, remove, write_atomic

PATIENCE = Config(
    connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3}
)
"""Timeouts in seconds: a trial does not wait longer for a file that only saves time."""


class Bucket:
    """A bucket as a place for artifacts."""

    def __init__(self, name: str, prefix: str) -> None:
        parts = [part for part in prefix.split("/") if part]
        self._prefix = "".join(f"{part}/" for part in parts)
        self._name = name
        try:
            self._client = boto3.session.Session().client("s3", config=PATIENCE)
        except BotoCoreError as error:
            raise UserError(f"--artifacts {self}: {_cause(error)}") from error
        except ValueError as error:  # whose message contains the endpoint
            raise UserError(
                f"--artifacts {self}: the endpoint is no URL; see AWS_ENDPOINT_URL"
            ) from error
        self.store = _Prefixed(name, self._client, self._prefix)

    def __str__(self) -> str:
        return f"s3://{self._name}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        probe = uuid.uuid4().hex
        try:
            self.ids(probe)
            self.write(probe, b"")
            self.store.remove(probe)
        except OSError as error:
            raise UserError(
                f"--artifacts {self}: {error}; name a bucket in which objects may be listed, "
                "written and deleted"
            ) from error

    def write(self, artifact_id: str, content: bytes) -> None:
        self.store.write(artifact_id, io.BytesIO(content))

    def read(self, artifact_id: str) -> bytes | None:
        try:
            return self.store.open_reader(artifact_id).read()
        except ArtifactNotFound:
            return None

    def remove(self, artifact_id: str) -> None:
        with suppress(OSError):
            self.store.remove(artifact_id)

    def ids(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2")
        with _answering():
            return [
                found["Key"].removeprefix(self._prefix)
                for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + prefix)
                for found in page.get("Contents", ())
            ]

    def fetch(self, artifact_id: str, sha256: str) -> Path:
        path = private_temp_folder() / "weights" / artifact_id
        if file_sha256(path) != sha256:
            remove(path)
            if (content := self.read(artifact_id)) is not None:
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, content)
        return path


class _Prefixed(Boto3ArtifactStore):
    """Optuna's store with a prefix for all keys, and OSError for a bucket that does not answer."""

    def __init__(self, bucket: str, client: Any, prefix: str) -> None:
        super().__init__(bucket, client)
        self._prefix = prefix

    def open_reader(self, artifact_id: str) -> BinaryIO:
        # Read completely: the dashboard's server sends seekable content without keeping a thread,
        # and a broken connection is noticed before anything is sent.
        with _answering(), closing(super().open_reader(self._prefix + artifact_id)) as body:
            return io.BytesIO(body.read())

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        # In one request: the parts of a multipart upload would remain, invisible and billed, if the
        # process is killed in between. Reading an `io.BytesIO` to its end makes no copy.
        body = content_body.read()
        with _answering():
            self.client.put_object(Bucket=self.bucket, Key=self._prefix + artifact_id, Body=body)

    def remove(self, artifact_id: str) -> None:
        with _answering():
            super().remove(self._prefix + artifact_id)


@contextmanager
def _answering() -> Iterator[None]:
    """Turn errors of boto3 into OSError."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(_cause(error)) from error


def _cause(error: BotoCoreError | ClientError) -> str:
    """Return one line, without a password from the endpoint's URL."""
    told = error.response.get("Error", {}) if isinstance(error, ClientError) else {}
    cause = f"{told['Message']} ({told.get('Code')})" if "Message" in told else str(error)
    return re.sub(r"//[^/@\s]*@", "//***@", " ".join(cause.split()))
