"""The data of a report on a study, read from the database."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from statistics import stdev
from typing import Self

import optuna
from optuna.trial import FrozenTrial

from search.analysis.answer import Answer, answer
from search.analysis.audit import RungAudit, audits
from search.analysis.published import Verdict, verdict
from search.analysis.rerun_metrics import REPRODUCED, Repeats, repeats
from search.analysis.savings import Savings
from search.database.database import Database
from search.database.knowledge import changes
from search.database.optuna_internals import StudyView
from search.database.snapshot import Overview
from search.database.studies import stored_definition, study_called
from search.errors import UserError
from search.reporting.commands import Commands
from search.study.study import Study
from search.study.trial_attributes import environments

ENOUGH = 20
"""The number of completed trials from which on importances are told."""
RESAMPLES = 20
"""The number of resamples of the trials from which the uncertainty of importances is found."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the difference between good and average trials a parameter explains."""

    value: float
    sd: float
    """The standard deviation over resamples of the trials."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The results of one study, read from the database at one moment."""

    study: Study
    """The study with the stored epochs, images, seed and selection."""
    database: str
    """The URL of the database, without the password."""
    options: str
    """The options that name the study on a command line, such as `--study cifar`."""
    commands: Commands
    overview: Overview
    reproduced: Repeats
    """The re-runs of `search.reproduce` by variant; without re-runs, the search's own trial."""
    trained: Mapping[str, Study]
    """The study that the runs in `reproduced` were trained as, by variant; re-runs may differ from
    the search in images or epochs."""
    answer: Answer
    changes: Sequence[str] = ()
    """As for `search.database.knowledge.changes`."""

    @classmethod
    def of(cls, database: Database, study: Study, *, options: str, commands: Commands) -> Self:
        """Read the study with the name of `study`.

        Raises:
            UserError: the database has no such study, or the study has no finished epoch.
        """
        definition = stored_definition(database, study.name)
        search = commands.line("search.run", options)
        if definition is None:
            raise UserError(
                f"--name {study.name}: {database} has no study of this name; `{search}` creates it"
            )
        overview = Overview.of_study(database, study.name)
        if not overview.epochs:
            raise UserError(
                f"--name {study.name}: this study has no finished epoch, so there is nothing to "
                f"report; `{search}` resumes it"
            )
        study = study.defined(definition)
        of_search = _of_search(overview)
        name = study.name + REPRODUCED
        definition = stored_definition(database, name)
        rerun = {} if definition is None else repeats(Overview.of_study(database, name))
        return cls(
            study=study,
            database=str(database),
            options=options,
            commands=commands,
            overview=overview,
            reproduced={**of_search, **rerun},
            trained=dict.fromkeys(of_search, study)
            | dict.fromkeys(rerun, study.defined(definition)),
            answer=answer(database, overview),
            changes=changes(database, study_called(database, study.name), study.space),
        )

    @cached_property
    def importances(self) -> Mapping[str, Importance]:
        """Parameter importances, which sum to 1, the highest first.

        Empty with fewer than `ENOUGH` completed trials within the ranges, or if all have the same
        value.
        """
        fitted = map(self.study.space.fitted, self.overview.ranked)  # ranges may have changed
        ranked = sorted(filter(None, fitted), key=lambda trial: trial.number)
        if len(ranked) < ENOUGH:
            return {}
        found = self._importances(ranked)
        draw = random.Random(self.study.seed)
        again = [self._importances(draw.choices(ranked, k=len(ranked))) for _ in range(RESAMPLES)]
        order = self.study.space.names  # Optuna's order of equal values differs between processes
        return {
            name: Importance(value=found[name], sd=stdev(one.get(name, 0.0) for one in again))
            for name in sorted(found, key=lambda n: (-found[n], order.index(n)))
        }

    def _importances(self, trials: Sequence[FrozenTrial]) -> Mapping[str, float]:
        if len({trial.values[0] for trial in trials}) < 2:
            return {}
        empty = optuna.create_study(direction=self.study.direction)
        # A study copies each trial that is added, which takes longer than all the rest.
        return optuna.importance.get_param_importances(StudyView(empty, lambda _: trials))

    @property
    def training_text(self) -> str:
        """When and where the trials were trained, in words."""
        starts = [t.datetime_start for t in self.overview.trials if t.datetime_start is not None]
        epochs = [epoch for found in self.overview.epochs.values() for epoch in found]
        seconds = timedelta(seconds=round(sum(epoch.seconds for epoch in epochs)))
        found = [one for trial in self.overview.trials for one in environments(trial)]
        devices = dict.fromkeys(str(one["device"]) for one in found)
        parts = [
            f"begun {min(starts):%Y-%m-%d}" if starts else "",
            f"{len(epochs)} epochs in {seconds} of training" if epochs else "",
            f"on {' and on '.join(devices)}" if devices else "",
        ]
        return ", ".join(filter(None, parts))

    @cached_property
    def savings(self) -> Savings:
        return Savings.of(self.overview)

    @cached_property
    def audits(self) -> list[RungAudit]:
        return audits(self.overview, self.study.pruner)

    @property
    def caution(self) -> str:
        """A caution about the best trial's accuracy, unless re-runs have measured it."""
        return "" if self.answer.text else self.study.caution

    @cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """The verdicts by variant, for variants with published figures."""
        found = {name: verdict(self.reproduced, self.trained[name], name) for name in self.variants}
        return {name: one for name, one in found.items() if one is not None}

    @property
    def variants(self) -> list[str]:
        """The names of the trained variants, in the study's order."""
        return [name for name in self.study.every_variant if self.reproduced.get(name)]


def _of_search(overview: Overview) -> Repeats:
    """Return the epochs of the search's own variants, each as a single run."""
    return {
        name: {0: overview.of(trial)}
        for name, trial in overview.variants.items()
        if overview.of(trial)
        and (overview.value(trial) is not None or trial.number not in overview.told)
    }
