"""The dashboard, as a user starts it: a process that serves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.cli.options import STORAGE_VARIABLE
from search.dashboard import TOKEN_VARIABLE


@dataclass(frozen=True, kw_only=True)
class Served:
    """A dashboard that runs."""

    url: str
    process: "subprocess.Popen[str]"
    folder: Path
    storage: str

    def ask(
        self, path: str, method: str = "GET", body: object = None, **headers: str
    ) -> tuple[int, str]:
        """Return status and text of the answer."""
        asked = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | headers,
        )
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def studies(self, **headers: str) -> list[str]:
        status, text = self.ask("api/studies", **headers)
        assert status == 200, text
        return [study["study_name"] for study in json.loads(text)["study_summaries"]]


@contextmanager
def served_dashboard(
    folder: Path, storage: str, *options: str, token: str = "", stop: int = signal.SIGTERM
) -> Iterator[Served]:
    """Start the dashboard; stop it, and see that it leaves at once and without a complaint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "search.dashboard", "--port", "0", *options],
        cwd=folder,
        env=os.environ | {STORAGE_VARIABLE: storage, TOKEN_VARIABLE: token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(
            r"(http://[0-9.]+:\d+/)  \((read-only|edits allowed)(, asks for the token)?; "
            r"Ctrl-C stops it\)\n",
            line,
        )
        assert found, line or process.communicate()
        address = found[1].replace("0.0.0.0", "127.0.0.1")
        yield Served(url=address, process=process, folder=folder, storage=storage)
        process.send_signal(stop)
        asked = time.monotonic()
        assert process.communicate(timeout=120) == ("", "")
        assert time.monotonic() - asked < 5
        assert process.returncode == 128 + stop
    finally:
        process.kill()
        process.wait()
