"""When a worker stops before the budget is spent: on a signal, at a time limit, or when a user asks
all workers of the study to stop."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from search import signals


class Stopped(BaseException):
    """The worker was asked to stop. Another worker can resume its trial."""


@dataclass
class Stop:
    """A request to stop: by a signal, by a time limit, or through the database."""

    deadline: float | None = None
    """In terms of `time.monotonic()`; None for no time limit."""
    signal: int | None = None
    """The first signal, such as `SIGTERM`; None without a signal."""
    by: str = "--timeout"
    """What asked, if there was no signal."""
    _asked: threading.Event = field(default_factory=threading.Event)

    def is_asked(self) -> bool:
        return self._asked.is_set() or self.is_late()

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def exit_status(self) -> int:
        """128 plus the signal's number, as in shells; 0 without a signal."""
        return 128 + self.signal if self.signal else 0

    def __str__(self) -> str:
        return signal.Signals(self.signal).name if self.signal else self.by

    def ask(self, *, by: str | None = None) -> None:
        self.by = by or self.by
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Wait until the time is over or a stop is requested (not by the deadline)."""
        self._asked.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop on the signals of `search.signals`; a second one ends the process at once, except
        SIGHUP."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.signal = self.signal or number
            self.ask()
            if number != signal.SIGHUP:  # sent twice when a shell and its terminal end
                signal.signal(number, signal.SIG_DFL)

        with signals.handled(ask):
            yield
