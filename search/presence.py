"""Whether a worker is still alive, for those that share its files.

A lease alone says so only once it has expired. Here the kernel says it at once: a worker's lock on
a file ends with its process, however it ends. Those who share the files are the workers on one
folder of artifacts; with a bucket, which has no locks, those on one machine.
"""

import os
import socket
import time
import uuid
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

BEING_MADE = ".new"
"""Ending of a file that its worker may not have locked yet."""
MAKING_SECONDS = 60.0


class Presence:
    """A file that a worker holds locked while it lives; the kernel lets go when it is killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        # Locked first and named after: nobody sees the file without its lock.
        made = folder / f"{self.worker}{BEING_MADE}"
        self._lock = _file_lock(made)
        self._lock.acquire()
        made.rename(folder / self.worker)

    def is_gone(self, worker: str) -> bool:
        """Return whether `worker` is known to be dead.

        False also for one whose file is not here: it may live on a machine with other files.
        """
        path = self._folder / worker
        if worker == self.worker or not path.exists():
            return False
        try:
            with _file_lock(path).acquire(timeout=0):
                return True
        except Timeout:
            return False

    def leave(self) -> Set[str]:
        """Let go; return the workers whose files are left and who are dead, itself among them.

        Of those the ones that hold a lease are to keep their files, which tell that they are dead;
        the others' are for `remove`.
        """
        self._lock.release()
        with suppress(OSError):
            names = {path.name for path in self._folder.iterdir()}
            return {name for name in names if name == self.worker or self.is_gone(name)}
        return set()

    def remove(self, workers: Set[str]) -> None:
        """Remove the files of these dead workers."""
        with suppress(OSError):  # what is left is removed by the next one that leaves
            for worker in workers:
                path = self._folder / worker
                if path.suffix != BEING_MADE or _age_seconds(path) > MAKING_SECONDS:
                    path.unlink(missing_ok=True)


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # renamed by now
        return 0.0


def _file_lock(path: Path) -> FileLock:
    # Kept, since an absent file tells nothing; and never a file that outlives its process's lock.
    return FileLock(path, preserve_lock_file=True, fallback_to_soft=False)
