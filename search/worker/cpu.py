"""The CPU cores of this process: how many it may use, and whether it gets them."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

JUDGED_SECONDS = 30.0
"""Wall time over which a share is measured; less says little on a busy machine."""
SHARE = 1 / 3
"""A thread that computes gets all of a core; one that gets less than this is told about."""


def usable_cores(system: Path = Path("/")) -> int:
    """Return how many cores this process may use, 1 or more.

    A batch system limits them by the process's affinity, a container engine by a quota of its
    control group. `system` is the folder that has `proc` and `sys`.
    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files.
    """
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return max(math.floor(min([cores, *_quotas(system)])), 1)


def _quotas(system: Path) -> Iterator[float]:
    """Yield the quota, in cores, of each control group that this process is in."""
    groups = _read(system / "proc/self/cgroup")
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = system / "sys/fs/cgroup" / controllers
        # A container sees its own group as the root, under whatever name the host gave it.
        inside = Path(path.lstrip("/"))
        for group in (mounted / inside, *(mounted / one for one in inside.parents)):
            if controllers:
                quota = _read(group / "cpu.cfs_quota_us").split()
                period = _read(group / "cpu.cfs_period_us").split()
                limit = quota + period
            else:
                limit = _read(group / "cpu.max").split()
            if len(limit) == 2 and limit[0] not in ("max", "-1"):
                yield int(limit[0]) / int(limit[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class Share:
    """Tells once if the thread that computes gets little of a core."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """`cpu` returns the seconds that the calling thread has computed."""
        self._say = say
        self._wall, self._cpu = wall, cpu
        self._seconds = self._computed = 0.0
        self._is_told = False

    def watched(self, steps: Iterator[T]) -> Iterator[T]:
        """Yield `steps`; what making one takes is computation, and no wait for others."""
        while True:
            began, computed = self._wall(), self._cpu()
            try:
                step = next(steps)
            except StopIteration:
                return
            self._seconds += self._wall() - began
            self._computed += self._cpu() - computed
            if self._seconds >= JUDGED_SECONDS:
                self._judge()
            yield step

    def _judge(self) -> None:
        share = self._computed / self._seconds
        self._seconds = self._computed = 0.0
        if share >= SHARE or self._is_told:
            return
        self._is_told = True
        self._say(
            f"training gets {share:.0%} of a CPU core, so epochs take {1 / max(share, 0.01):.0f} "
            "times as long as on a free one: the CPU is shared with other processes; start fewer "
            "workers, and give each run --threads 1"
        )
