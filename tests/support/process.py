"""A worker's process within the test's own: the only place where tests put a worker or its claims
together.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from search.database import leases, tables
from search.database.database import Database
from search.database.identity import study_ref
from search.database.leases import Claim, Lease
from search.database.liveness import ProcessIdentity
from search.study.budget import Budget
from search.study.study import Study
from search.worker.claims import LEASE_SECONDS, Claims
from search.worker.config import WorkerConfig
from search.worker.machine import Machine
from search.worker.result import Outcome
from search.worker.stop import Stop
from search.worker.worker import Worker


class Process:
    """What one process makes of a study and a database: a worker, on the CPU."""

    def __init__(
        self,
        url: str,
        study: Study,
        folder: Path,
        *,
        artifacts: str = "",
        machine: Machine | None = None,
        measure_train: bool = False,
        redefine: bool = False,
        learn_from: Sequence[str] = (),
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`artifacts` is as for `--artifacts`, by default the `folder`; `redefine` and `learn_from`
        are as for `Worker.open`."""
        config = WorkerConfig(
            study=study.name,
            changes={},
            storage=url,
            data=folder,
            artifacts=artifacts or str(folder),
            device="cpu",
            threads=1,
            measure_train=measure_train,
            lease_seconds=lease_seconds,
        )
        self.machine = machine or config.machine(study, print)
        self._opened = Worker.open(
            config, study, self.machine, redefine=redefine, learn_from=learn_from
        )
        self.worker = self._opened.__enter__()
        self.database, self.joined = self.worker.database, self.worker.joined
        self.claims, self.kept = self.worker.claims, self.worker.kept
        self.claims.limit(budget=study.budget)
        self.ref = study_ref(self.joined)

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

    def claim(self) -> Claim:
        claim = self.claims.claim()
        assert isinstance(claim, Claim)
        return claim

    def run(self, claim: Claim, after_batch: Callable[[int], None] = lambda batches: None) -> None:
        """Run one trial; `after_batch` may raise `Killed`."""
        self.worker.run(claim, after_batch)

    def work(self, *, deadline: float | None = None) -> None:
        """Run trials until the budget is spent or the deadline has passed."""
        self.worker.work(Stop(deadline=deadline), budget=self.worker.study.budget)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.joined.get_trials()

    @property
    def order(self) -> list[tuple[int, int]]:
        """The recorded epochs in their order, as (trial, epoch)."""
        rows = tables.epochs.c
        query = select(rows.trial, rows.number).where(rows.study_key == self.ref.key)
        with self.database.engine.connect() as connection:
            return [(row.trial, row.number) for row in connection.execute(query.order_by(rows.id))]

    def figures(self) -> list[list[dict[str, object]]]:
        """Everything recorded of every trial's epochs but the time that they took."""
        rows = [self.database.epochs(self.ref.key, trial.number) for trial in self.trials]
        return [
            [{**dataclasses.asdict(epoch), "seconds": None} for epoch in epochs] for epochs in rows
        ]


class Workers:
    """Any number of workers, each with claims of its own, as processes have; they train nothing."""

    def __init__(self, database: Database, joined: optuna.Study, study: Study) -> None:
        self.database, self.joined, self.study = database, joined, study
        self.key = study_ref(joined).key

    def new(
        self,
        *,
        budget: int | Budget = 6,
        lease_seconds: float = 60.0,
        process: ProcessIdentity | None = None,
    ) -> Claims:
        return Claims(
            self.database,
            self.joined,
            study=self.study,
            budget=Budget(trials=budget) if isinstance(budget, int) else budget,
            lease_seconds=lease_seconds,
            process=process,
        )

    def claim(self, claims: Claims) -> Claim:
        claim = claims.claim()
        assert isinstance(claim, Claim)
        return claim

    def end(self, claims: Claims, state: TrialState = TrialState.COMPLETE) -> int:
        """Claim a trial, end it, and return its number."""
        claim = self.claim(claims)
        claims.finish(
            claim, Outcome(state=state, value=0.5 if state == TrialState.COMPLETE else None)
        )
        return claim.number


def held_leases(database: Database, study_key: str) -> dict[int, Lease]:
    """Return the leases of a study by trial number."""
    with database.engine.connect() as connection:
        return leases.leases(connection, study_key)


ELSEWHERE = ProcessIdentity(host="another-host", pid=1, started=0.0)
"""A process of which nothing can be known here."""

Start = Callable[..., Process]
"""The fixture `start`: takes the arguments of `Process`, of which it knows the first three."""


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_at(calls: int) -> Callable[[int], None]:
    """Return an `after_batch` that ends the process at the given call."""
    counted = iter(range(1, calls + 1))

    def after_batch(batches: int) -> None:
        if next(counted) == calls:
            raise Killed

    return after_batch
