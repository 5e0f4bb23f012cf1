"""Workers on a Ray cluster: actors that Ray places on machines with room for them.

Every machine needs this package, must reach the database, and finds or downloads the images under
the same path. Source: https://docs.ray.io/en/latest/ray-core/actors.html.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from search.cli.options import MOST_WORKERS
from search.errors import UserError
from search.launch.supervisor import End, Fate
from search.worker.config import WorkerConfig
from search.worker.serve import serve
from search.worker.stop import Stop

TELL_SECONDS = 5.0
"""How long to wait for the last messages of a worker that has ended."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to the cluster at `address`; `local` starts one, and stops it after the block.

    Raises:
        UserError: there is no cluster at `address`.
    """
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError, RayError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--ray {address}: no cluster is found there ({cause}); start one with `ray start "
            "--head`, or give `local`"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def n_machines() -> int:
    """Return the number of machines of the cluster; several nodes may be on one machine."""
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def room(n_workers: int | None, *, threads: int, gpus: float | None) -> tuple[int, float]:
    """Return the number of workers and the GPUs of each.

    By default, as many workers as the cluster can run at once, each with one GPU if there are any.

    Raises:
        UserError: no machine of the cluster has enough threads or GPUs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    most_gpus = max(node.get("GPU", 0.0) for node in nodes)
    each_gpus = gpus if gpus is not None else min(most_gpus, 1.0)
    for option, asked, most in (
        ("--threads", threads, max(cores)),
        ("--gpus-per-worker", each_gpus, most_gpus),
    ):
        if asked > most:
            raise UserError(
                f"{option} {asked:g}: no machine of the Ray cluster has more than {most:g}"
            )
    if n_workers is None:
        fit = sum(_n_fitting(node, threads=threads, gpus=each_gpus) for node in nodes)
        n_workers = min(max(fit, 1), MOST_WORKERS)
    return n_workers, each_gpus


def _n_fitting(node: Mapping[str, float], *, threads: int, gpus: float) -> int:
    """Return the number of workers that a machine can run at once."""
    by_cores = int(node.get("CPU", 0.0)) // threads
    return min(by_cores, int(node.get("GPU", 0.0) / gpus)) if gpus else by_cores


class RayWorker:
    """A worker in the cluster; it starts when a machine has room for it."""

    def __init__(self, config: WorkerConfig, *, gpus: float) -> None:
        made: Any = ray.remote(_Actor)
        needs = {"num_cpus": config.threads, "num_gpus": gpus, "max_concurrency": 2}
        self._actor = made.options(**needs).remote()
        self._end = self._actor.work.remote(config.from_any_folder())
        self._asked_for_words: Any = None
        self._has_begun = False

    def told(self) -> list[str]:
        if not _is_ready(self._end):
            return self._answer(seconds=0)
        return self._answer(TELL_SECONDS) + self._answer(
            TELL_SECONDS
        )  # the first answers an earlier request

    def end(self) -> End | None:
        if not _is_ready(self._end):
            return None
        try:
            end: End = ray.get(self._end)
        except RayError as error:
            return End(fate=Fate.DIED, why=f"is gone ({str(error).splitlines()[0]})")
        return end

    def _answer(self, seconds: float) -> list[str]:
        """Request its messages, unless a request is pending, and wait for the answer."""
        if self._asked_for_words is None:
            self._asked_for_words = self._actor.told.remote()
        try:
            lines: list[str] = ray.get(self._asked_for_words, timeout=seconds)
        except RayError:  # among others, a timeout
            return []
        self._asked_for_words = None
        self._has_begun = True
        return lines

    def ask_to_stop(self) -> None:
        if self._has_begun:
            self._actor.ask_to_stop.remote()
        else:
            ray.kill(self._actor)  # it may never be placed


def _is_ready(reference: Any) -> bool:
    ready, _ = ray.wait([reference], timeout=0)
    return bool(ready)


class _Actor:
    """Runs on a machine of the cluster."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._lines: list[str] = []
        # Ray's main thread runs no Python, and so no signal handler, until the process ends.
        told, tells = os.pipe()
        os.set_blocking(tells, False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
        threading.Thread(target=self._heed, args=(told,), daemon=True).start()

    def _heed(self, told: int) -> None:
        """Stop on SIGTERM, which a machine sends to all processes before it shuts down."""
        while signal.SIGTERM not in os.read(told, 64):
            pass
        self._stop.signal = signal.SIGTERM
        self._stop.ask()

    def work(self, config: WorkerConfig) -> End:
        """Run a worker; return how it ended."""
        if not serve(config, self._stop, self._lines.append):
            return End(fate=Fate.FAILED)
        if self._stop.signal is not None:  # another machine may have room
            return End(fate=Fate.DIED, why=f"was stopped by {self._stop}")
        return End(fate=Fate.DONE)

    def told(self) -> list[str]:
        lines, self._lines[:] = list(self._lines), []
        return lines

    def ask_to_stop(self) -> None:
        self._stop.ask()
