"""Many workers of one search, wherever they run: started, watched, replaced and stopped.

A worker that is killed loses nothing, since the database has all of it; here another is put in its
place. How one is started is for `search.launch.processes` and `search.launch.ray_actors`.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch

from search.cli.options import MOST_WORKERS
from search.database.outage import tolerating_outage
from search.errors import UserError
from search.worker import device
from search.worker.cpu import usable_cores
from search.worker.stop import Stop

POLL_SECONDS = 0.1
DEATHS = 3
"""So many times every worker may die before the search has recorded another epoch."""


class KeepsDying(Exception):
    """Workers are killed before they get anything done; the message says by what."""


class Fate(Enum):
    DONE = "the budget is spent, or it was asked to stop"
    FAILED = "it met an error, which it has told"
    DIED = "its process or machine is gone"


@dataclass(frozen=True, kw_only=True)
class End:
    fate: Fate
    why: str = ""
    """Of one that died or was stopped: by what."""


class Worker(Protocol):
    """A worker that has been started somewhere."""

    def told(self) -> list[str]:
        """Return what it has said since the last question."""

    def end(self) -> End | None:
        """Return how it ended; None while it works."""

    def ask_to_stop(self) -> None:
        """Ask it, without waiting, to stop within a batch; it may have ended."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one worker of a machine has to itself."""

    device: str
    threads: int

    def __str__(self) -> str:
        if self.device != "cpu":
            return self.device
        return "CPU, 1 thread" if self.threads == 1 else f"CPU, {self.threads} threads"


def deal(device_name: str, n_workers: int | None, *, threads: int | None) -> list[Place]:
    """Return a place for each worker, CUDA devices in turn.

    None workers stands for one on each device, or on a CPU for as many as there are cores for the
    threads of each.

    Raises:
        UserError: PyTorch knows no such device, or this machine has none, or fewer cores than
            `threads`.
    """
    chosen = device.choose(device_name)
    each, cores = threads or device.THREADS, usable_cores()
    if chosen.type == "cpu" and each > cores:
        raise UserError(
            f"--threads {each}: this process may use {cores} CPU core{'s' if cores > 1 else ''}, "
            f"and threads on one core wait for each other; give --threads {cores} or less"
        )
    names = [str(chosen)]
    if names == ["cuda"]:
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if n_workers is None:
        n_workers = min(cores // each, MOST_WORKERS) if chosen.type == "cpu" else len(names)
    dealt = itertools.islice(itertools.cycle(names), n_workers)
    return [Place(device=name, threads=each) for name in dealt]


def supervise(
    start: Sequence[Callable[[], Worker]],
    stop: Stop,
    *,
    progress: Callable[[], int],
    say: Callable[[str], None],
) -> int:
    """Keep one worker of each of `start` at work until all have ended; return how many failed.

    One that dies is replaced, one that fails is not. `progress` returns a number that grows with
    each epoch that the search records, whoever does. What asks `stop` asks all of them.

    Raises:
        KeepsDying: they die and get nothing done; the others have been stopped.
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
            end = worker.end()  # asked first, so that all that an ended one has said is read
            for line in worker.told():
                say(f"worker {number}: {line}")
            if end is None:
                continue
            del at_work[number]
            failed += end.fate is Fate.FAILED
            if end.why and end.fate is Fate.DONE and not (stopping or stop.is_asked()):
                # Somebody has asked this one alone.
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
    """Counts deaths since the search last got on."""

    def __init__(self, *, limit: int, progress: Callable[[], int]) -> None:
        self._limit = limit
        self._progress = progress
        self._before = 0
        self._count = 0

    def are_too_many(self) -> bool:
        """Count one more."""
        with tolerating_outage():
            if (now := self._progress()) > self._before:
                self._before, self._count = now, 0
        self._count += 1
        return self._count >= self._limit
