"""The signals that ask a process to stop: Ctrl-C, a service manager's, and a terminal that closes.

One that is ignored when the process starts stays ignored, as `nohup` has it.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asks to stop."""


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call `handler` on each signal of `STOPPING` that is not ignored."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    heeded = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    try:
        for number in heeded:
            signal.signal(number, handler)
        yield
    finally:
        for number, was in heeded.items():
            signal.signal(number, was)


def interruptible(work: Callable[[], int]) -> int:
    """Return the status that `work` returns, or 128 and the number of the signal that stops it, as
    `Interrupted`. Another signal ends the process, and so does one that comes while Python ends."""
    first: list[int] = []
    at_work = False
    hook = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        first.append(number)
        if len(first) == 1 and at_work:
            raise Interrupted(number)
        if number != signal.SIGHUP or not at_work:  # it comes twice where a shell's terminal closes
            os._exit(128 + first[0])

    def unraised(lost: Any) -> None:
        # In a callback of Python's own, as imports have them, an exception is lost.
        if isinstance(lost.exc_value, Interrupted):
            os._exit(128 + first[0])
        hook(lost)

    atexit.register(gc.freeze)  # else Python looks through all of PyTorch's objects at its end
    atexit.register(end_at_once)
    sys.unraisablehook = unraised
    with handled(interrupt):
        try:
            at_work = True
            return work()
        except BaseException as error:
            if first:  # whatever a library has made of it
                return 128 + first[0]
            if isinstance(error, KeyboardInterrupt):
                return 128 + signal.SIGINT
            raise
        finally:
            at_work = False
            sys.unraisablehook = hook


def end_at_once() -> None:
    """Let each signal of `STOPPING` that is not ignored end the process without a word."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))
