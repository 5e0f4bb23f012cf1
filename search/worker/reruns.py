"""Variants and trials trained again with other seeds, in a study of their own.

The study they come from is left untouched. Repeat k has the same seed whatever is trained, so that
two of them can be compared in pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from search.analysis.ranking import accuracies, still_in
from search.analysis.seeds import RERUN, repeats
from search.database.snapshot import Observer, Overview
from search.database.studies import ORIGIN_KEY, enqueue
from search.errors import UserError
from search.reporting.progress import following
from search.study.choices import Value
from search.study.study import Study
from search.study.trial_attributes import ORIGIN, REPEAT, SEED, Fixed
from search.worker.config import WorkerConfig
from search.worker.session import Machine
from search.worker.stop import Stop
from search.worker.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Reruns:
    """Where re-runs are recorded and trained."""

    study: Study
    """The study of the re-runs; it has no variants of its own."""
    config: WorkerConfig
    machine: Machine
    out: Console
    origin: str | None = None
    """The key of the study whose trials are run again; None for a study's variants."""

    def fixed(self, origin: Mapping[str, Value], params: Mapping[str, Value], repeat: int) -> Fixed:
        """Return re-run `repeat` of what the attributes `origin` name."""
        seed = self.study.repeat_seed(repeat)
        return Fixed(params=params, attributes={**origin, REPEAT: repeat, SEED: seed})

    def train_best(self, best: Sequence[FrozenTrial], n_repeats: int, stop: Stop) -> Overview:
        """Train each of `best`, trials of another study, with so many seeds.

        Seed by seed, without those that `search.analysis.ranking.RULE` leaves out. Returns and
        raises as `train` does.
        """
        params = {trial.number: trial.params for trial in best}
        with self._opened() as worker:
            overview = Observer(worker.database, worker.joined).look()
            for repeat in range(n_repeats):
                found = accuracies(repeats(overview), list(params), self.study.epochs)
                wanted = [
                    self.fixed({ORIGIN: number}, params[number], repeat)
                    for number in still_in(found, repeat)
                ]
                overview = self._train(worker, wanted, stop)
                if stop.is_asked():
                    break
        return overview

    def train(self, wanted: list[Fixed], stop: Stop) -> Overview:
        """Train those of `wanted` that have not ended, and return the study as it is then.

        Raises:
            UserError: the study of the re-runs has another definition.
            KeepsFailing, DatabaseGone: as `search.worker.worker.Worker.work` does.
        """
        with self._opened() as worker:
            return self._train(worker, wanted, stop)

    @contextmanager
    def _opened(self) -> Iterator[Worker]:
        with Worker.open(self.config, self.study, self.machine) as worker:
            if self.origin is not None:
                self._adopt(worker.joined, self.origin)
            yield worker

    def _train(self, worker: Worker, wanted: list[Fixed], stop: Stop) -> Overview:
        enqueue(worker.database, worker.joined, wanted)
        observer = Observer(worker.database, worker.joined)
        with (
            following(observer, self.out, epochs=self.study.epochs, budget=len(wanted)),
            stop.on_signals(),
        ):
            worker.work(stop, wanted={one.name for one in wanted})
        return observer.look()

    def _adopt(self, joined: optuna.Study, origin: str) -> None:
        """Let the study hold re-runs of trials of the study of that key, unless it has others."""
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
