"""Helpers for downloading image files; the datasets' modules define the sources."""

import socket
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from search.errors import UserError

ANSWER_SECONDS = 20
"""Timeout for a source; a source that does not answer in time is skipped."""
DOWNLOAD_ERRORS = (
    OSError,
    HTTPException,  # such as a truncated response
    RuntimeError,  # a wrong checksum, in torchvision
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
)
"""Errors that torchvision raises if a download or its unpacking fails."""

Say = Callable[[str], None]


class Unavailable(Exception):
    """A source cannot provide the files; the message gives the reason."""


def must_answer(url: str) -> None:
    """Raise `Unavailable` unless `url` answers in time, including name lookup and connection.

    An HTTP error counts as an answer: the files may have other URLs on the same server.
    """
    error: list[Exception] = [TimeoutError(f"no answer within {ANSWER_SECONDS:g} seconds")]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
                error.clear()
        except urllib.error.HTTPError as refusal:
            refusal.close()
            error.clear()
        except Exception as failure:  # such as an answer that is not HTTP
            error[:] = [failure]

    asking = threading.Thread(target=ask, daemon=True)  # a name lookup has no timeout
    asking.start()
    asking.join(ANSWER_SECONDS)
    found = list(error)  # a copy, since the thread may still change it
    if found:
        raise Unavailable(first_line(found[0]))


@contextmanager
def socket_timeout() -> Iterator[None]:
    """Give new connections a socket timeout of `ANSWER_SECONDS`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(ANSWER_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def data_folder(root: Path) -> Iterator[None]:
    """Create the folder of the image files, and report disk errors as errors of `--data`.

    Raises:
        UserError: the folder cannot be created, read or written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"--data {root}: {error.strerror or error}; give another folder") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without Python's decorations."""
    cause = error.reason if type(error) is urllib.error.URLError else error
    text = getattr(cause, "strerror", None) or str(cause)
    return (text.splitlines() or [type(cause).__name__])[0]
