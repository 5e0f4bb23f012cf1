"""When a worker stops before the budget is spent: on a signal, or at a time limit."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from search import signals


class Stopped(BaseException):
    """The worker was asked to stop; its trial stays for another. Not an error."""


@dataclass
class Stop:
    """When a worker is to stop: on a signal, or at a time."""

    deadline: float | None = None
    """In `time.monotonic()`; None for no time limit."""
    signal: int | None = None
    """The first signal that asked, such as `SIGTERM`; None if none did."""
    _asked: threading.Event = field(default_factory=threading.Event)

    def is_asked(self) -> bool:
        return self._asked.is_set() or self.is_late()

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def exit_status(self) -> int:
        """128 and the signal's number, as shells have it; 0 for the time limit."""
        return 128 + self.signal if self.signal else 0

    def __str__(self) -> str:
        return signal.Signals(self.signal).name if self.signal else "--timeout"

    def ask(self) -> None:
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until something but the deadline asks to stop."""
        self._asked.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the signals of `search.signals` ask to stop; the same one again ends the process at
        once, but for SIGHUP."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.signal = self.signal or number
            self.ask()
            if number != signal.SIGHUP:  # which comes twice where a shell and its terminal end
                signal.signal(number, signal.SIG_DFL)

        with signals.handled(ask):
            yield
