"""The CPU cores that this process may use, and the share of them that it gets."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

JUDGED_SECONDS = 30.0
"""Wall time in seconds over which the share is measured."""
SHARE = 1 / 3
"""A computing thread normally gets a whole core; below this share a warning is printed."""


def usable_cores(system: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1.

    Batch systems limit it by CPU affinity, container engines by a quota of the control group.
    `system` is the folder that contains `proc` and `sys`.
    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files.
    """
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return max(math.floor(min([cores, *_quotas(system)])), 1)


def _quotas(system: Path) -> Iterator[float]:
    """Yield the quota, in cores, of each control group of this process."""
    groups = _read(system / "proc/self/cgroup")
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = system / "sys/fs/cgroup" / controllers
        # A container sees its own group as the root, whatever its name on the host.
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
    """Warns once if the computing thread gets a small share of a core."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """`cpu` returns the CPU seconds of the calling thread."""
        self._say = say
        self._wall, self._cpu = wall, cpu
        self._seconds = self._computed = 0.0
        self._is_told = False

    def watched(self, steps: Iterator[T]) -> Iterator[T]:
        """Yield `steps`, and measure the time that each takes to compute."""
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
            "times as long as on a free one: the CPU is shared with other processes; "
            "start fewer workers, or give them fewer --threads if they have several"
        )
