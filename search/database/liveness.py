"""Whether the process that holds a lease is still alive, for workers on the same host.

Without this, a dead worker's trial would be blocked until its lease expires. A lease names the
host's boot, the process id namespace, the process id and its start time.
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
"""Two processes with the same id start further apart: the kernel cycles through all ids first."""


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process, uniquely identified across hosts and reboots."""

    host: str
    """The host's boot and its process id namespace."""
    pid: int
    started: float
    """Start time in seconds since boot, independent of clock changes."""

    @classmethod
    def current(cls) -> Self:
        return cls(host=_host(), pid=os.getpid(), started=_started(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the output of `str`."""
        host, pid, started = text.split(" ")
        return cls(host=host, pid=int(pid), started=float(started))

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started:.1f}"

    def is_dead(self) -> bool:
        """Return whether the process is known to have ended.

        False for processes on other hosts or in other containers, and for hidden ones.
        """
        if self.host != _host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it exists and belongs to another user
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
    """Return the boot of this host and the process id namespace as one word."""
    if BOOT_ID.exists() and NAMESPACE.exists():
        return f"{BOOT_ID.read_text().strip()}/{NAMESPACE.stat().st_ino}"
    return f"{uuid.getnode():x}/{psutil.boot_time():.0f}"
