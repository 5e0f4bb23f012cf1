"""Re-runs: variants and trials retrained with other seeds, in a separate study.

The original study is not changed. Repeat k has the same seed for every trial, so that trials can be
compared in pairs.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from search.analysis.answer import answer_from_reruns
from search.analysis.paired_test import finals, remaining_trials
from search.analysis.rerun_metrics import RERUN, repeats
from search.database.database import Database
from search.database.snapshot import Observer, Overview
from search.database.studies import ORIGIN_KEY, enqueue, rerun_study
from search.errors import UserError
from search.reporting.progress import show_progress
from search.study.budget import Budget
from search.study.confirmation import Confirmation
from search.study.space import Value
from search.study.study import Study
from search.study.trial_attributes import ORIGIN, REPEAT, SEED, Fixed, fixed_name
from search.worker.config import WorkerConfig
from search.worker.machine import Machine
from search.worker.stop import Stop
from search.worker.worker import Worker


def rerun_name(database: Database, search: Overview, name: str) -> str:
    """Return the name of the study with the re-runs of the best trials of `search`, a study called
    `name`; it need not exist yet."""
    return rerun_study(database, search.study_key) or name + RERUN


def alone(worker: Worker, stop: Stop, wanted: Collection[str]) -> None:
    """Train the enqueued trials of the names `wanted` in this process."""
    worker.work(stop, wanted=wanted)


@dataclass(frozen=True, kw_only=True)
class Reruns:
    """Trains and records re-runs."""

    study: Study
    """The study of the re-runs, without variants."""
    config: WorkerConfig
    machine: Machine
    out: Console
    origin: str | None = None
    """The key of the study whose trials are run again; None for a study's variants."""
    work: Callable[[Worker, Stop, Collection[str]], None] = alone
    """Trains enqueued trials, by their names, in whichever processes."""

    def fixed(self, origin: Mapping[str, Value], params: Mapping[str, Value], repeat: int) -> Fixed:
        """Return re-run number `repeat` of the variant or trial that `origin` names."""
        seed = self.study.repeat_seed(repeat)
        return Fixed(
            params=self.study.space.complete(params),
            attributes={**origin, REPEAT: repeat, SEED: seed},
        )

    def train_best(self, best: Sequence[FrozenTrial], n_repeats: int, stop: Stop) -> Overview:
        """Train each of `best`, trials of another study, with `n_repeats` seeds, seed by seed.

        Trials that `search.analysis.paired_test.RULE` excludes are dropped. Returns and raises like
        `train`.
        """
        params = {trial.number: trial.params for trial in best}
        with self._opened() as worker:
            overview = Observer(worker.database, worker.joined).look()
            for repeat in range(n_repeats):
                found = finals(repeats(overview), list(params), self.study.final, self.study.epochs)
                left = remaining_trials(found, repeat, self.study.direction)
                planned = [
                    self.fixed({ORIGIN: number}, params[number], one)
                    for one in range(repeat, n_repeats)
                    for number in left
                ]
                n = len(left)
                overview = self._train(worker, planned[:n], stop, later=planned[n:])
                if stop.is_asked():
                    break
        return overview

    def confirm(self, search: Overview, how: Confirmation, stop: Stop) -> bool:
        """Train the best trials of `search`, and then the best of those with unused seeds; return
        whether all re-runs have finished.

        Raises:
            UserError: the study of the re-runs has another definition.
            KeepsFailing, KeepsDying, DatabaseGone, StudyGone: as `search.launch.launcher.Crew.work`
                does.
        """
        with self._opened() as worker:
            overview = Observer(worker.database, worker.joined).look()
            wanted = [
                self.fixed({ORIGIN: trial.number}, trial.params, repeat)
                for repeat in range(how.seeds)
                for trial in search.ranked[: how.trials]
            ]
            # Of the present leader: which trial these seeds will judge is not known yet.
            later = self._unused(search, overview, how)
            overview = self._train(worker, wanted, stop, later=later)
            if not wanted or not _have_finished(overview, wanted):
                return False
            wanted = self._unused(search, overview, how)
            return _have_finished(self._train(worker, wanted, stop), wanted)

    def _unused(self, search: Overview, reruns: Overview, how: Confirmation) -> list[Fixed]:
        """Return the re-runs of the best trial with the seeds that have no part in choosing it."""
        best = answer_from_reruns(search, repeats(reruns)).best
        if best is None:
            return []
        return [
            self.fixed({ORIGIN: best.number}, best.params, repeat)
            for repeat in range(how.seeds, how.seeds + how.unused)
        ]

    def train(self, wanted: list[Fixed], stop: Stop) -> Overview:
        """Train those of `wanted` that have not finished, and return the study's new state.

        Raises:
            UserError: the study of the re-runs has another definition.
            KeepsFailing, DatabaseGone: as `search.worker.worker.Worker.work` does.
        """
        with self._opened() as worker:
            return self._train(worker, wanted, stop)

    @contextmanager
    def _opened(self) -> Iterator[Worker]:
        # All of its trials are fixed, so that ranges, sampler and pruner may be any.
        with Worker.open(self.config, self.study, self.machine, redefine=True) as worker:
            if self.origin is not None:
                self._adopt(worker.joined, self.origin)
            yield worker

    def _train(
        self, worker: Worker, wanted: list[Fixed], stop: Stop, *, later: Sequence[Fixed] = ()
    ) -> Overview:
        """Train `wanted`; the progress that is shown counts those that follow `later`, too."""
        enqueue(worker.database, worker.joined, self.study.space, wanted)
        observer = Observer(worker.database, worker.joined)
        there = [t for t in observer.look().trials if t.state != TrialState.FAIL]
        names = {*map(fixed_name, there), *(one.name for one in later)}
        budget = Budget(trials=len(names))
        with (
            show_progress(observer, self.out, self.study, budget=budget),
            stop.on_signals(),
        ):
            self.work(worker, stop, {one.name for one in wanted})
        return observer.look()

    def _adopt(self, joined: optuna.Study, origin: str) -> None:
        """Reserve the study for re-runs of the study with the key `origin`.

        Raises:
            UserError: it has other trials.
        """
        there = joined.user_attrs.get(ORIGIN_KEY)
        if there == origin:
            return
        name = joined.study_name
        if there is not None or joined.get_trials(deepcopy=False):
            what = "trials of its own" if there is None else "the re-runs of another study"
            raise UserError(
                f"--name {name.removesuffix(RERUN)}: its re-runs would be in the study {name}, "
                f"which has {what}; rename or delete {name} in the dashboard"
            )
        joined.set_user_attr(ORIGIN_KEY, origin)


def _have_finished(overview: Overview, wanted: Sequence[Fixed]) -> bool:
    finished = {fixed_name(trial) for trial in overview.ended_here}
    return all(one.name in finished for one in wanted)
