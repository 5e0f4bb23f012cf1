"""Variants and trials trained again with other seeds, in a study of their own.

The study they come from is left untouched. Repeat k has the same seed whatever is trained, so that
two of them can be compared in pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from search.analysis.ranking import accuracies, still_in
from search.analysis.seeds import ORIGIN_KEY, RERUN, repeats
from search.artifacts.store import Artifacts
from search.database.database import Database
from search.database.snapshot import Observer, Overview
from search.database.studies import join
from search.errors import UserError
from search.reporting.progress import following
from search.study.choices import Value
from search.study.study import Study
from search.study.trial_attributes import ORIGIN, REPEAT, SEED, Fixed
from search.worker.session import Machine
from search.worker.worker import Stop
from search.worker.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class Reruns:
    """Where re-runs are recorded and trained."""

    study: Study
    """The study of the re-runs; it has no variants of its own."""
    database: Database
    machine: Machine
    artifacts: Artifacts
    out: Console
    origin: str | None = None
    """The own key of the study whose trials are run again; None for a study's variants."""

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
        overview = Observer(self.database, self._join([])).look()
        for repeat in range(n_repeats):
            found = accuracies(repeats(overview), list(params), self.study.epochs)
            wanted = [
                self.fixed({ORIGIN: number}, params[number], repeat)
                for number in still_in(found, repeat)
            ]
            overview = self.train(wanted, stop)
            if stop.is_asked():
                break
        return overview

    def train(self, wanted: list[Fixed], stop: Stop) -> Overview:
        """Train those of `wanted` that have not ended, and return the study as it is then.

        Raises:
            UserError: the study of the re-runs has another definition.
            KeepsFailing, DatabaseGone: as `search.worker.worker.work` does.
        """
        joined = self._join(wanted)
        place = Workplace(
            study=self.study,
            joined=joined,
            database=self.database,
            machine=self.machine,
            artifacts=self.artifacts,
        )
        observer = Observer(self.database, joined)
        names = {one.name for one in wanted}
        with (
            following(observer, self.out, epochs=self.study.epochs, budget=len(wanted)),
            stop.on_signals(),
        ):
            place.work(stop, budget=None, wanted=names)
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

    def _join(self, wanted: list[Fixed]) -> optuna.Study:
        digest = self.machine.data_digest
        if self.origin is not None:
            self._adopt(join(self.database, self.study, data_digest=digest), self.origin)
        return join(self.database, self.study, data_digest=digest, reruns=wanted)
