"""Starts the workers of a search: this process, other processes, or a Ray cluster."""

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from search.database.snapshot import Observer
from search.errors import UserError
from search.launch.processes import Process, warm_up
from search.launch.supervisor import Place, Worker, deal, supervise
from search.study.budget import Budget
from search.worker import worker
from search.worker.claims import Standing
from search.worker.config import WorkerConfig
from search.worker.device import THREADS
from search.worker.stop import Stop


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The workers that the options of `search.run` ask for."""

    device: str
    """The device of this process; the CPU if the workers are elsewhere."""
    threads: int
    places: Sequence[Place] = ()
    """The places of the workers elsewhere; empty if this process is the worker."""
    start: Callable[[WorkerConfig], Worker] = Process
    where: str = ""
    """Describes the workers elsewhere."""

    def work(
        self,
        here: worker.Worker,
        stop: Stop,
        wanted: Collection[str] | None = None,
        *,
        budget: Budget | None = None,
        say: Callable[[str], None],
    ) -> None:
        """Run trials until the budget is spent, `stop` asks for an end, or all workers have failed.

        `here` is the worker of this process; workers elsewhere get its settings, and their places.
        `budget` and `wanted` are as for `search.worker.worker.Worker.work`.

        Raises:
            KeepsFailing, DatabaseGone: as `search.worker.worker.Worker.work` does.
            KeepsDying: as `search.launch.supervisor.supervise` does.
        """
        if not self.places:
            here.work(stop, budget=budget, wanted=wanted)
            return
        observer = Observer(here.database, here.joined)
        changes = {
            **here.config.changes,
            **here.study.precision_setting,  # one for all, whatever their devices would choose
        }
        if budget is not None:
            changes |= budget.settings
        config = replace(
            here.config, changes=changes, wanted=None if wanted is None else tuple(wanted)
        )
        configs = [replace(config, device=one.device, threads=one.threads) for one in self.places]
        failed = supervise(
            [partial(self.start, one) for one in configs],
            stop,
            progress=lambda: sum(map(len, observer.look().epochs.values())),
            say=say,
        )
        if here.claims.asked() is Standing.STOPPED:
            stop.ask(by=worker.STEERED)
        if failed:
            say(f"{failed} of {len(configs)} workers met an error, told above")


@contextmanager
def hired(options: argparse.Namespace, *, uses_torch: bool) -> Iterator[Crew]:
    """Return the crew that the options of `search.run` ask for; `uses_torch` is the trainer's.

    Raises:
        UserError: the device or cluster does not exist, or is too small for the options.
    """
    if options.ray is not None:
        with _on_ray(options) as crew:
            yield crew
    elif options.gpus_per_worker is not None:
        raise UserError("--gpus-per-worker: it is for --ray; give --device cuda, or cuda:1")
    elif (
        len(
            places := deal(
                options.device, options.workers, threads=options.threads, uses_torch=uses_torch
            )
        )
        == 1
    ):
        yield Crew(device=options.device, threads=places[0].threads)
    else:
        warm_up(uses_torch=uses_torch)  # while this process does other things
        yield Crew(
            device="cpu",
            threads=places[0].threads,
            places=places,
            where=f"{len(places)} workers, each on {places[0]}",
        )


@contextmanager
def _on_ray(options: argparse.Namespace) -> Iterator[Crew]:
    try:
        from search.launch import ray_actors
    except ImportError as error:
        raise UserError("--ray: it needs the extra `cluster`: pip install '.[cluster]'") from error
    with ray_actors.connected(options.ray):
        machines = ray_actors.n_machines()
        if machines > 1 and options.storage.startswith("sqlite"):
            raise UserError(
                f"--storage: the Ray cluster has {machines} machines, and a SQLite file is on one; "
                "give postgresql://USER:PASSWORD@HOST/DATABASE"
            )
        threads = options.threads or THREADS
        n_workers, gpus = ray_actors.room(
            options.workers, threads=threads, gpus=options.gpus_per_worker
        )
        yield Crew(
            device="cpu",
            threads=threads,
            places=[Place(device=options.device, threads=threads)] * n_workers,
            start=partial(ray_actors.RayWorker, gpus=gpus),
            where=f"a Ray cluster of {machines} machine{'s' if machines > 1 else ''}, "
            f"{n_workers} worker{'s' if n_workers > 1 else ''} "
            f"(of each: CPUs {threads}, GPUs {gpus:g})",
        )
