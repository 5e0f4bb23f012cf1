"""The three tasks of `search.reproduce`.

Train the variants with several seeds and compare them with the published figures; replay a stored
trial; retrain the best trials with fresh seeds and compare them with each other.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console

from search.analysis.answer import answer
from search.analysis.paired_test import finals, standings
from search.analysis.rerun_metrics import REPRODUCED, repeats, write
from search.database.database import Database
from search.database.outage import tolerating_outage
from search.database.snapshot import Overview
from search.database.studies import stored_definition
from search.errors import UserError
from search.reporting.notes import Notes
from search.reporting.seed_tables import comparison, rerun_table
from search.study.study import Study
from search.study.trial_attributes import VARIANT
from search.worker import replay
from search.worker.config import WorkerConfig
from search.worker.machine import Machine
from search.worker.reruns import Reruns, rerun_name
from search.worker.stop import Stop, Stopped


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Reproduces trials of one study on this machine."""

    study: Study
    """From its file, with its name in the database."""
    database: Database
    config: WorkerConfig
    """In a replay, device `auto` and threads None mean those of the trial."""
    search: str
    """The command that creates the study in the database."""
    out: Console
    stop: Stop

    def variants(
        self,
        names: Sequence[str],
        numbers: Sequence[int],
        *,
        options: Mapping[str, Any],
        file: Path | None,
    ) -> None:
        """Train the variants `names`, or all but the optional ones if there are none, with the
        seeds of the re-runs `numbers`, and compare them.

        The settings are those of earlier re-runs, else those of the search, with the fields in
        `options` replaced. The metrics are written to `file`, if given.

        Raises:
            UserError: the study has no such variant, or the re-runs have another definition.
            KeepsFailing, DatabaseGone: as `search.worker.worker.Worker.work` does.
        """
        variants = self.study.every_variant
        names = names or list(self.study.variants)
        if not names:
            raise UserError(f"--study {self.study.name}: it has no variants to train; see --trial")
        for name in names:
            if name not in variants:
                known = ", ".join(variants) or "none"
                raise UserError(f"--variant {name}: the study has no such variant; known: {known}")
        own = self.study.name + REPRODUCED
        definition = stored_definition(self.database, own) or stored_definition(
            self.database, self.study.name
        )
        study = self.study.defined(definition).changed(options)
        reruns = self._reruns(study, own, definition and definition["data"])
        wanted = [
            reruns.fixed({VARIANT: name}, self.study.space.params(variants[name]), repeat)
            for repeat in numbers
            for name in names
        ]
        overview = reruns.train(wanted, self.stop)
        self._tell(overview, file, reruns.study)
        self.out.print(
            comparison(repeats(overview), study.in_precision(reruns.machine.session.precision))
        )

    def best(self, which: str | int, n_repeats: int, *, file: Path | None) -> None:
        """Train a trial, or the best `which` trials, with `n_repeats` fresh seeds; compare them.

        Raises:
            UserError: there is no such trial, or it is not complete.
            KeepsFailing, DatabaseGone: as `search.worker.worker.Worker.work` does.
        """
        study, search, digest = self._search()
        best = [self._find(search, which)] if isinstance(which, str) else search.ranked[:which]
        if not best:
            raise UserError(f"--top {which}: no trial of the study is complete yet")
        for trial in best:
            if trial not in search.ranked:
                raise UserError(
                    f"--trial {trial.number}: it is {trial.state.name}, and only a completed trial "
                    "has a metric to compare; without --repeats it is compared with itself"
                )
        name = rerun_name(self.database, search, study.name)
        reruns = self._reruns(study, name, digest, origin=search.study_key)
        overview = reruns.train_best(best, n_repeats, self.stop)
        with tolerating_outage():
            Notes.of(self.database, study).update()
        self._tell(overview, file, reruns.study)
        numbers = [trial.number for trial in best]
        found = standings(
            finals(repeats(overview), numbers, study.final, study.epochs), study.direction
        )
        self.out.print(rerun_table(found, {trial.number: trial for trial in best}, study))

    def again(self, number: str) -> int:
        """Replay a trial, and return the exit status.

        Raises:
            UserError: there is no such trial, or it has no metrics to compare.
        """
        study, search, digest = self._search()
        trial = self._find(search, number)
        stored = search.of(trial)
        replay.check(trial, stored)
        device_name, threads = replay.place(trial, self.config.device, self.config.threads)
        config = dataclasses.replace(self.config, device=device_name, threads=threads)
        machine = self._machine(config, study, digest)
        asked = [
            option
            for option, is_asked in (
                ("--device", self.config.device != "auto"),
                ("--threads", self.config.threads is not None),
            )
            if is_asked
        ]
        self._say(replay.told(trial, machine.environment, asked))

        def after_batch(batches: int) -> None:
            if self.stop.is_asked():
                raise Stopped

        try:
            with self.stop.on_signals():
                compared = replay.train_again(study, trial, stored, machine, self._say, after_batch)
        except Stopped:
            self.out.print(f"Stopped by {self.stop}.")
            return self.stop.exit_status
        self._say(str(compared))
        return 0 if compared.is_same else 1

    def _find(self, search: Overview, number: str) -> FrozenTrial:
        """Return the trial with this number; `best` is the best by re-runs, if there are any."""
        best = answer(self.database, search).best
        return best if number == "best" and best is not None else search.find(number)

    def _search(self) -> tuple[Study, Overview, object]:
        """Return the study as defined in the database, its trials, and the digest of its data."""
        name = self.study.name
        definition = stored_definition(self.database, name)
        if definition is None:
            raise UserError(
                f"--name {name}: {self.database} has no study of this name; "
                f"`{self.search}` creates it"
            )
        overview = Overview.of_study(self.database, name)
        return self.study.defined(definition), overview, definition["data"]

    def _reruns(
        self, study: Study, name: str, digest: object = None, *, origin: str | None = None
    ) -> Reruns:
        study = dataclasses.replace(study, name=name, variants={}, optional_variants={})
        machine = self._machine(self.config, study, digest)
        return Reruns(
            study=study.in_precision(machine.session.precision),
            config=self.config,
            machine=machine,
            out=self.out,
            origin=origin,
        )

    def _machine(self, config: WorkerConfig, study: Study, digest: object) -> Machine:
        """Return this machine with the data, which must have the `digest`, if it is given."""
        machine = config.machine(study, self._say)
        if digest not in (None, machine.session.digest):
            raise UserError(f"--data {config.data}: these are not the data that the study has")
        return machine

    def _tell(self, overview: Overview, file: Path | None, study: Study) -> None:
        if file is not None:
            write(overview, file, study)
        if self.stop.is_asked():
            self.out.print(f"Stopped by {self.stop}; run the same command to resume.")

    def _say(self, line: str) -> None:
        self.out.print(line, markup=False, highlight=False, soft_wrap=True)
