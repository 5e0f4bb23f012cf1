"""A real S3 server, moto's, in a thread of this process."""

import itertools
import threading
from collections.abc import Mapping

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

SECRET = "open-sesame-too"
"""The secret key of all tests: nothing may print it."""


class S3:
    """Listens on one port of 127.0.0.1; what it holds stays while it is stopped."""

    def __init__(self) -> None:
        self._names = (f"bucket-{number}" for number in itertools.count())
        self._port = 0

    def start(self) -> None:
        app = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer = make_server("127.0.0.1", self._port, app, threaded=True)
        self._port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> Mapping[str, str]:
        """What boto3 is to find in the environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def new_bucket(self) -> str:
        name = next(self._names)
        self._client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> list[str]:
        listed = self._client().list_objects_v2(Bucket=bucket)
        return [found["Key"] for found in listed.get("Contents", ())]

    def _client(self) -> "boto3.client":
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRET,
        )
