"""A study in the database and the machine to run its trials on, shown while it works."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from search.checkpoints import Checkpoints
from search.claims import Claims
from search.joining import artifacts_folder, artifacts_key
from search.kept import Kept
from search.machine import Machine
from search.objective import Objective
from search.overview import Observer
from search.presence import Presence
from search.storage import Database
from search.store import FOLDER, Store
from search.study import Study
from search.view import following
from search.worker import Stop, work


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A study that has been joined, where its trials are trained, and where it is shown."""

    study: Study
    joined: optuna.Study
    database: Database
    machine: Machine
    artifacts: Path
    out: Console

    def work(
        self,
        observer: Observer,
        stop: Stop,
        *,
        budget: int | None,
        wanted: Callable[[FrozenTrial], bool] = lambda trial: True,
        measure_train: bool = False,
    ) -> None:
        """Run trials until `budget` have finished or `stop` asks for an end; show them meanwhile.

        `budget` None stands for the enqueued trials, as far as they are `wanted`.

        Raises:
            KeepsFailing, DatabaseGone: as `search.worker.work` does.
        """
        folder = self.artifacts / artifacts_folder(self.joined)
        seen = observer.look()
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.sweep(seen.begun)
        store = Store(self.artifacts / FOLDER, artifacts_key(self.joined))
        kept = Kept(self.database, self.joined, store)
        kept.sweep()
        presence = Presence(folder / "workers")
        claims = Claims(self.database, self.joined, presence, budget=budget, wanted=wanted)
        objective = Objective(
            study=self.study,
            joined=self.joined,
            database=self.database,
            claims=claims,
            checkpoints=checkpoints,
            kept=kept,
            machine=self.machine,
            measure_train=measure_train,
        )
        shown = budget or sum(map(wanted, seen.trials))
        with (
            following(observer, self.out, epochs=self.study.epochs, budget=shown),
            stop.on_signals(),
        ):
            work(objective, claims, stop)
