"""The signals that ask a process to stop: from Ctrl-C, a service manager or a closing terminal.

A signal that is ignored when the process starts stays ignored, as with `nohup`.
"""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to stop."""


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call `handler` on each signal in `STOPPING` that is not ignored; outside of the main thread,
    which alone may have handlers, on none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
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
    """Return the status of `work`, or 128 plus the number of the signal that stopped it.

    The signal raises `Interrupted` in `work`. A second signal ends the process at once.
    """
    first: list[int] = []
    at_work = False
    hook = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        first.append(number)
        if len(first) == 1 and at_work:
            raise Interrupted(number)
        if number != signal.SIGHUP or not at_work:  # a shell whose terminal closes sends it twice
            os._exit(128 + first[0])

    def unraised(lost: Any) -> None:
        # Python drops an exception raised in one of its callbacks, such as those of imports.
        if isinstance(lost.exc_value, Interrupted):
            os._exit(128 + first[0])
        hook(lost)

    atexit.register(gc.freeze)  # else Python collects all of PyTorch's objects at exit
    sys.unraisablehook = unraised
    with handled(interrupt):
        try:
            at_work = True
            status = work()
            return 128 + first[0] if first and status else status
        except BaseException as error:
            if first:  # a library may have raised another exception instead
                return 128 + first[0]
            if isinstance(error, KeyboardInterrupt):
                return 128 + signal.SIGINT
            raise
        finally:
            at_work = False
            sys.unraisablehook = hook


def end_at_once() -> None:
    """Let each signal in `STOPPING` that is not ignored end the process without a message."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))
