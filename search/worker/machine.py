"""The device and the session of a study, opened once per process; starts trainings in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.files import temporary_folder
from search.study.study import Study
from search.study.training import Place, Run, Session
from search.worker import device
from search.worker.environment import Environment, environment
from search.worker.guarded_training import GuardedTraining


@dataclass(frozen=True, kw_only=True)
class Machine:
    device: str
    """As in PyTorch: `cpu`, `cuda:1`."""
    threads: int
    data: Path
    session: Session
    environment: Environment

    @classmethod
    def of(
        cls,
        study: Study,
        *,
        device_name: str,
        threads: int | None,
        root: Path,
        say: Callable[[str], None],
        file: str = "",
    ) -> "Machine":
        """Set the process up for the device, and open the study's session on it.

        `file` is the study's file, if it is a user's.

        Raises:
            UserError: the device does not exist, the session cannot be opened, such as without its
                data, or there is no temporary folder.
        """
        temporary_folder()  # PyTorch looks for it when it makes its first optimizer
        trainer = study.trainer
        where = device.choose(device_name, uses_torch=trainer.uses_torch)
        n_threads = device.THREADS if threads is None else threads
        device.prepare(where, n_threads, uses_torch=trainer.uses_torch)
        place = Place(device=where, data=root, metric=study.metric, say=say)
        session = trainer.open(place)
        return cls(
            device=where,
            threads=n_threads,
            data=root,
            session=session,
            environment=environment(
                where,
                threads=n_threads,
                session=session,
                uses_torch=trainer.uses_torch,
                file=file,
            ),
        )

    def training(
        self,
        study: Study,
        choices: Any,
        *,
        seed: int,
        is_detailed: bool,
        after_batch: Callable[[int], None],
    ) -> GuardedTraining:
        """Return a new training of `choices` with the settings of `study`.

        Raises:
            TrainingError, UserError: as `GuardedTraining` does.
        """
        run = Run(
            choices=choices,
            seed=seed,
            epochs=study.epochs,
            metric=study.metric,
            is_detailed=is_detailed,
            device=self.device,
            threads=self.threads,
            data=self.data,
            after_batch=after_batch,
        )
        return GuardedTraining(self.session, run, study.trainer.source)

    def __str__(self) -> str:
        return device.describe(self.device, self.threads)
