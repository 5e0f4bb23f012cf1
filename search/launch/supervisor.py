"""Starts, watches, replaces and stops the workers of a search, wherever they run.

A killed worker loses nothing, since everything is in the database; it is replaced here. See
`search.launch.processes` and `search.launch.ray_actors` for the two kinds of workers.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from search.cli.options import MOST_WORKERS
from search.database.outage import tolerating_outage
from search.errors import UserError
from search.worker import device
from search.worker.cpu import usable_cores
from search.worker.stop import Stop

POLL_SECONDS = 0.1
DEATHS = 3
"""How often each worker may die before the search records another epoch."""


class KeepsDying(Exception):
    """Workers are killed before they record an epoch; the message names the cause."""


class Fate(Enum):
    DONE = "the budget is spent, or it was asked to stop"
    FAILED = "it met an error, which it has reported"
    DIED = "its process or machine is gone"


@dataclass(frozen=True, kw_only=True)
class End:
    fate: Fate
    why: str = ""
    """What killed or stopped it."""


class Worker(Protocol):
    """A started worker."""

    def told(self) -> list[str]:
        """Return its messages since the last call."""

    def end(self) -> End | None:
        """Return how it ended; None while it is working."""

    def ask_to_stop(self) -> None:
        """Ask it to stop within a batch, without waiting; it may already have ended."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The resources of one worker."""

    device: str
    threads: int

    def __str__(self) -> str:
        if self.device != "cpu":
            return self.device
        return "CPU, 1 thread" if self.threads == 1 else f"CPU, {self.threads} threads"


def deal(
    device_name: str, n_workers: int | None, *, threads: int | None, uses_torch: bool = True
) -> list[Place]:
    """Return a place for each worker, cycling through the CUDA devices.

    By default one worker for each device, or on a CPU as many as there are cores for their threads.

    Raises:
        UserError: the device does not exist, or this machine has fewer cores than `threads`.
    """
    chosen = device.choose(device_name, uses_torch=uses_torch)
    each, cores = threads or device.THREADS, usable_cores()
    if chosen == "cpu" and each > cores:
        raise UserError(
            f"--threads {each}: this process may use {cores} CPU core{'s' if cores > 1 else ''}, "
            f"and threads on one core wait for each other; give --threads {cores} or less"
        )
    names = [chosen]
    if names == ["cuda"]:
        import torch

        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if n_workers is None:
        n_workers = min(cores // each, MOST_WORKERS) if chosen == "cpu" else len(names)
    dealt = itertools.islice(itertools.cycle(names), n_workers)
    return [Place(device=name, threads=each) for name in dealt]


def supervise(
    start: Sequence[Callable[[], Worker]],
    stop: Stop,
    *,
    progress: Callable[[], int],
    say: Callable[[str], None],
) -> int:
    """Run one worker for each entry of `start` until all have ended; return how many failed.

    A worker that dies is replaced, a worker that fails is not. `progress` returns the number of
    epochs that the search has recorded. A request to `stop` is passed on to all workers.

    Raises:
        KeepsDying: workers keep dying without recording an epoch; the others have been stopped.
    """
    at_work = {number: begin() for number, begin in enumerate(start, start=1)}
    deaths = _Deaths(limit=DEATHS * len(start), progress=progress)
    hopeless: str | None = None
    stopping = False
    failed = 0
    while at_work:
        if not stopping and (stop.is_asked() or hopeless is not None):
            stopping = True
            for worker in at_work.values():
                worker.ask_to_stop()
        for number, worker in list(at_work.items()):
            end = worker.end()  # asked first, so that all messages of an ended worker are read
            for line in worker.told():
                say(f"worker {number}: {line}")
            if end is None:
                continue
            del at_work[number]
            failed += end.fate is Fate.FAILED
            if end.why and end.fate is Fate.DONE and not (stopping or stop.is_asked()):
                # Only this worker was asked to stop.
                say(f"worker {number} {end.why}; no other takes its place")
            if end.fate is not Fate.DIED or stopping:
                continue
            if deaths.are_too_many():
                hopeless = end.why
            else:
                say(f"worker {number} {end.why}; another takes its place")
                at_work[number] = start[number - 1]()
        time.sleep(POLL_SECONDS)
    if hopeless is not None:
        raise KeepsDying(
            f"workers have died {DEATHS * len(start)} times without an epoch in between; the last "
            f"{hopeless}"
        )
    return failed


class _Deaths:
    """Counts deaths since the last recorded epoch."""

    def __init__(self, *, limit: int, progress: Callable[[], int]) -> None:
        self._limit = limit
        self._progress = progress
        self._before = 0
        self._count = 0

    def are_too_many(self) -> bool:
        """Count another death; return whether there are too many."""
        with tolerating_outage():
            if (now := self._progress()) > self._before:
                self._before, self._count = now, 0
        self._count += 1
        return self._count >= self._limit
