"""Sources of image files: whether they answer, why they have not got them, where the files go.

Which sources there are is for the modules of the datasets.
"""

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
"""A source that has not answered by then is passed over."""
DOWNLOAD_ERRORS = (
    OSError,
    HTTPException,  # such as an answer that is cut off
    RuntimeError,  # torchvision's, of a sum that is another one
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
)
"""What torchvision raises where a download or its unpacking fails."""

Say = Callable[[str], None]


class Unavailable(Exception):
    """A source of the files has not got them; the message says why."""


def must_answer(url: str) -> None:
    """Raise `Unavailable` unless `url` answers in time, name look-up and connection included.

    An answer that refuses the URL is one: what is fetched from there may lie beside it.
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
        except Exception as answer:  # such as one that is not HTTP
            error[:] = [answer]

    asking = threading.Thread(target=ask, daemon=True)  # a name look-up knows no time limit
    asking.start()
    asking.join(ANSWER_SECONDS)
    found = list(error)  # it may answer at this very moment
    if found:
        raise Unavailable(first_line(found[0]))


@contextmanager
def impatient_sockets() -> Iterator[None]:
    """Let every connection that is made within end after `ANSWER_SECONDS` of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(ANSWER_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def data_folder(root: Path) -> Iterator[None]:
    """Make the folder of the image files, and blame it for the disk's errors within.

    Raises:
        UserError: it cannot be made, read or written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"--data {root}: {error.strerror or error}; name another folder") from error


def first_line(error: BaseException) -> str:
    """Return what `error` says, in one line and without Python's decorations."""
    cause = error.reason if type(error) is urllib.error.URLError else error
    text = getattr(cause, "strerror", None) or str(cause)
    return (text.splitlines() or [type(cause).__name__])[0]
