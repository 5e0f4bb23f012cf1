"""Whether the process that holds a lease is still alive, for workers on the same host.

A lease says so by itself only once it has expired. A process of the same host is asked for at once:
the lease holds the host's boot, the process's namespace, its id and its start.
"""

import os
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
SAME_START_SECONDS = 2.0
"""Two processes of one id start further apart: the kernel gives out all other ids in between."""


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """One process, unlike any other of any host at any time."""

    host: str
    """The host since it was booted, and the namespace of its process ids."""
    pid: int
    started: float
    """In seconds since the boot, which no change of the clock moves."""

    @classmethod
    def current(cls) -> Self:
        return cls(host=_host(), pid=os.getpid(), started=_started(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `str` wrote."""
        host, pid, started = text.split(" ")
        return cls(host=host, pid=int(pid), started=float(started))

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started:.1f}"

    def is_dead(self) -> bool:
        """Return whether the process is known to have ended.

        False also for one of another host or container, and for one that cannot be looked at.
        """
        if self.host != _host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it is there, and another user's
            pass
        try:
            if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
                return True
            return abs(_started(self.pid) - self.started) > SAME_START_SECONDS
        except psutil.Error:  # /proc may hide the processes of other users
            return False


def _started(pid: int) -> float:
    return float(psutil.Process(pid).create_time() - psutil.boot_time())


@cache
def _host() -> str:
    """Return this boot of this host, and the namespace of process ids, as one word."""
    if BOOT_ID.exists() and NAMESPACE.exists():
        return f"{BOOT_ID.read_text().strip()}/{NAMESPACE.stat().st_ino}"
    return f"{uuid.getnode():x}/{psutil.boot_time():.0f}"
