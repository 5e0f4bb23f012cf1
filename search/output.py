"""Standard output and standard error of a command, which may be closed, full, hung up or blocked.

A command whose result is elsewhere continues without a reader: output that cannot be written is
dropped, and a reader that has stopped, such as a terminal after Ctrl-S, does not block it.
Characters missing from the encoding are replaced. A command whose result is its output uses
`deliver`.
"""

import codecs
import errno
import io
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

PATIENCE_SECONDS = 0.2
"""How long a write waits for a slow reader. Later writes do not wait until it has caught up."""
END_SECONDS = 2.0
"""How long a command waits for its readers at the end."""
CHUNK_BYTES = 65536
PLAIN = {"±": "+/-", "…": "...", "×": "x", "–": "-", "—": "-", "−": "-", "√": "sqrt "}
"""Replacements for characters that this service prints, in encodings without them."""


class NotDelivered(Exception):
    """The output of a command could not be written; raised from the system's error."""


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError), "used for encoding only"
    if plain := PLAIN.get(error.object[error.start]):
        return plain, error.start + 1
    end = next(
        (i for i in range(error.start, error.end) if error.object[i] in PLAIN), error.end
    )  # an error may span several characters
    escaped = UnicodeEncodeError(error.encoding, error.object, error.start, end, error.reason)
    return codecs.backslashreplace_errors(escaped)


PLAINLY = "search.plainly"
"""Name of the error handler for `str.encode`."""
codecs.register_error(PLAINLY, _plainly)


class Channel(io.BufferedIOBase):
    """A file descriptor that buffers everything written to it, and writes it in a thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._changed = threading.Condition()
        self.error: OSError | None = None
        """The first error of a write."""
        self.is_stuck = False
        """Whether the reader has stopped reading."""
        threading.Thread(target=self._pass_on, name="output", daemon=True).start()

    @property
    def name(self) -> int:
        """The descriptor, as for any file opened by descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        with self._changed:
            self._pending += data
            self._changed.notify_all()
            if not self.is_stuck:
                self.is_stuck = not self.wait(PATIENCE_SECONDS)
        return len(data)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until everything is written or dropped, without limit if None; return whether it
        is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, seconds)

    def _pass_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                chunk = bytes(self._pending[:CHUNK_BYTES])
            written = self._written(chunk)
            with self._changed:
                del self._pending[:written]
                if not self._pending:
                    self.is_stuck = False
                    self._changed.notify_all()

    def _written(self, chunk: bytes) -> int:
        """Write part of the chunk; return the number of bytes written or dropped."""
        try:
            return os.write(self._descriptor, chunk)
        except BlockingIOError:  # another process made the terminal non-blocking
            select.select((), (self._descriptor,), ())
            return 0
        except OSError as error:
            self.error = self.error or error
            return len(chunk)


@contextmanager
def kept() -> Iterator[None]:
    """Keep the block running whatever happens to standard output and standard error.

    Streams that were replaced before are left as they are. At the end, wait up to `END_SECONDS`
    for the readers.
    """
    closed = _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout, closed)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr, closed)
    try:
        yield
    finally:
        finish(END_SECONDS)
        sys.stdout, sys.stderr = before


def finish(seconds: float | None = None) -> None:
    """Wait until the readers have read everything, without limit if None."""
    for stream in (sys.stdout, sys.stderr):
        if channel := _channel(stream):
            stream.flush()
            channel.wait(seconds)


def is_stuck() -> bool:
    """Return whether the reader of standard output has stopped reading."""
    channel = _channel(sys.stdout)
    return channel is not None and channel.is_stuck


def deliver(content: bytes | str) -> None:
    """Print the output of a command, and wait until its reader has read it.

    Raises:
        NotDelivered: the output cannot be written.
    """
    if isinstance(content, str):
        sys.stdout.write(content)
        sys.stdout.flush()
    else:
        sys.stdout.buffer.write(content)
    if channel := _channel(sys.stdout):
        channel.wait()
        if channel.error is not None:
            raise NotDelivered(channel.error.strerror) from channel.error


def _fill_closed_descriptors() -> set[int]:
    """Open the null device for each closed standard stream, so that no database gets its
    descriptor; return the descriptors that were closed."""
    closed = set()
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
            closed.add(descriptor)
    return closed


def _stream(descriptor: int, before: TextIO | None, closed: set[int]) -> TextIO:
    channel = Channel(descriptor)
    if descriptor in closed:
        channel.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
    encoding = "utf-8" if before is None else before.encoding
    if before is not None:
        before.flush()
    return io.TextIOWrapper(channel, encoding, PLAINLY, line_buffering=True)


def _channel(stream: TextIO) -> Channel | None:
    buffer = getattr(getattr(stream, "rich_proxied_file", stream), "buffer", None)
    return buffer if isinstance(buffer, Channel) else None
