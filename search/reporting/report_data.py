"""The data of a report on a study, read from the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import optuna
from optuna.trial import TrialState, create_trial

from search.analysis.answer import Answer, answer
from search.analysis.audit import RungAudit, audits
from search.analysis.published import Verdict, verdict
from search.analysis.rerun_metrics import REPRODUCED, Repeats, repeats
from search.analysis.savings import Savings
from search.database.database import Database
from search.database.snapshot import Overview
from search.database.studies import stored_definition
from search.errors import UserError
from search.study.study import Study


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The results of one study, read from the database at one moment."""

    study: Study
    """The study with the stored epochs, images, seed and selection."""
    database: str
    """The URL of the database, without the password."""
    options: str
    """The options that name the study on a command line, such as `--study cifar`."""
    overview: Overview
    reproduced: Repeats
    """The re-runs of `search.reproduce` by variant; without re-runs, the search's own trial."""
    trained: Mapping[str, Study]
    """The study that the runs in `reproduced` were trained as, by variant; re-runs may differ from
    the search in images or epochs."""
    answer: Answer

    @classmethod
    def of(cls, database: Database, study: Study, options: str) -> Self:
        """Read the study with the name of `study`.

        Raises:
            UserError: the database has no such study, or the study has no finished epoch.
        """
        definition = stored_definition(database, study.name)
        if definition is None:
            raise UserError(
                f"--name {study.name}: {database} has no study of this name; `python -m search.run`"
                " creates one"
            )
        overview = Overview.of_study(database, study.name)
        if not overview.epochs:
            raise UserError(
                f"--name {study.name}: this study has no finished epoch, so there is nothing to "
                "report; `python -m search.run` resumes it"
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
            overview=overview,
            reproduced={**of_search, **rerun},
            trained=dict.fromkeys(of_search, study)
            | dict.fromkeys(rerun, study.defined(definition)),
            answer=answer(database, overview),
        )

    @cached_property
    def copy(self) -> optuna.Study:
        """An in-memory copy of the trials, for Optuna's plots and importances."""
        study = optuna.create_study(study_name=self.study.name, direction=self.study.direction)
        measured = {trial.number: trial for trial in self.overview.ranked}
        other = create_trial(state=TrialState.FAIL)  # keeps the numbering, and is not plotted
        study.add_trials(measured.get(trial.number, other) for trial in self.overview.trials)
        return study

    @cached_property
    def importances(self) -> Mapping[str, float]:
        """Parameter importances, which sum to 1, the highest first.

        Empty if the completed trials have fewer than two different values.
        """
        if len({trial.values[0] for trial in self.overview.ranked}) < 2:
            return {}
        found = optuna.importance.get_param_importances(self.copy)
        order = self.study.space.names  # Optuna's order of equal values differs between processes
        return {
            name: found[name] for name in sorted(found, key=lambda n: (-found[n], order.index(n)))
        }

    @cached_property
    def savings(self) -> Savings:
        return Savings.of(self.overview)

    @cached_property
    def audits(self) -> list[RungAudit]:
        return audits(self.overview)

    @property
    def caution(self) -> str:
        """A caution about the best trial's accuracy."""
        return self.answer.text or self.study.caution

    @cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """The verdicts by variant, for variants with published figures."""
        found = {name: verdict(self.reproduced, self.trained[name], name) for name in self.variants}
        return {name: one for name, one in found.items() if one is not None}

    @property
    def variants(self) -> list[str]:
        """The names of the trained variants, in the study's order."""
        return [name for name in self.study.variants if self.reproduced.get(name)]


def _of_search(overview: Overview) -> Repeats:
    """Return the epochs of the search's own variants, each as a single run."""
    return {
        name: {0: overview.of(trial)}
        for name, trial in overview.variants.items()
        if overview.of(trial)
        and (overview.value(trial) is not None or trial.number not in overview.told)
    }
