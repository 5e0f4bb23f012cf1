"""The signals that ask a process to stop: Ctrl-C, a service manager's, and a terminal that closes.

One that is ignored when the process starts stays ignored, as `nohup` has it.
"""

import atexit
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


@contextmanager
def raised() -> Iterator[list[int]]:
    """Raise `Interrupted` on the first signal, and end the process on another; yield the first one,
    once it is there.

    A signal after the block, while Python ends, ends the process without a word.
    """
    first: list[int] = []
    hook = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(number)
            raise Interrupted(number)
        if number != signal.SIGHUP:  # which comes twice where a shell and its terminal end
            os._exit(128 + first[0])

    def unraised(lost: Any) -> None:
        if isinstance(
            lost.exc_value, Interrupted
        ):  # in a callback of Python's own, as imports have
            os._exit(128 + first[0])
        hook(lost)

    sys.unraisablehook = unraised
    try:
        with handled(interrupt):
            yield first
    finally:
        sys.unraisablehook = hook
        atexit.register(_end_at_once)


def _end_at_once() -> None:
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: os._exit(128 + number))
