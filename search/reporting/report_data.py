"""Everything that a report says of a study, read from the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.analysis.answer import Answer, answer
from search.analysis.published import Verdict, verdict
from search.analysis.ranking import Standing
from search.analysis.savings import Savings
from search.analysis.seeds import REPRODUCED, Repeats, repeats
from search.database.database import Database
from search.database.snapshot import Overview
from search.database.studies import stored_definition
from search.errors import UserError
from search.study.epoch import Epoch
from search.study.study import Study
from search.study.trial_attributes import DIVERGED


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of one study, as the database has it at one moment."""

    study: Study
    """With the epochs, images, seed and selection that the database has."""
    database: str
    """Its URL, without the password."""
    options: str
    """What names the study on a command line, such as `--study cifar`."""
    overview: Overview
    reproduced: Repeats
    """By variant: the re-runs of `search.reproduce`; where there are none, the search's trial."""
    trained: Mapping[str, Study]
    """By variant: the study as the runs in `reproduced` were trained; re-runs may have other images
    or epochs than the search."""
    answer: Answer

    @classmethod
    def of(cls, database: Database, study: Study, options: str) -> Self:
        """Read the study of that name.

        Raises:
            UserError: the database has no such study, or no epoch of it has ended.
        """
        definition = stored_definition(database, study.name)
        if definition is None:
            raise UserError(
                f"--name {study.name}: {database} has no study of this name; `python -m search.run`"
                " makes one"
            )
        overview = Overview.of_study(database, study.name)
        if not overview.epochs:
            raise UserError(
                f"--name {study.name}: no epoch of this study has ended, so there is nothing to "
                "report; `python -m search.run` goes on with it"
            )
        study = study.defined(definition)
        of_search = _of_search(overview)
        name = study.name + REPRODUCED
        rerun = _repeats(database, name)
        return cls(
            study=study,
            database=str(database),
            options=options,
            overview=overview,
            reproduced=of_search | rerun,
            trained=dict.fromkeys(of_search, study)
            | dict.fromkeys(rerun, study.defined(stored_definition(database, name))),
            answer=answer(database, overview, study.name),
        )

    @property
    def best(self) -> FrozenTrial | None:
        """As `search.analysis.answer.Answer.best`."""
        return self.answer.best

    @cached_property
    def copy(self) -> optuna.Study:
        """The trials in a study in memory, for what Optuna works out of completed ones."""
        study = optuna.create_study(study_name=self.study.name, direction="maximize")
        measured = {trial.number: trial for trial in self.overview.ranked}
        other = create_trial(state=TrialState.FAIL)  # a number, and nothing to draw
        study.add_trials(measured.get(trial.number, other) for trial in self.overview.trials)
        return study

    @cached_property
    def importances(self) -> Mapping[str, float]:
        """Of the parameters, summing to 1, the highest first.

        Empty if the completed trials are too few, or too alike, to tell.
        """
        if len({trial.values[0] for trial in self.overview.ranked}) < 2:
            return {}
        return optuna.importance.get_param_importances(self.copy)

    @cached_property
    def savings(self) -> Savings:
        return Savings.of(self.overview, self.study.epochs)

    @property
    def standings(self) -> Mapping[int, Standing]:
        """Of the trials that were trained again with fresh seeds, by number."""
        return self.answer.standings

    @property
    def caution(self) -> str:
        """What a reader of the best trial's accuracy must know."""
        return self.answer.text or self.study.caution

    @cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """By variant, where somebody published figures for it."""
        published = self.study.published_figures
        found = {
            name: verdict(self.reproduced, published, name, self.trained[name].incomparable)
            for name in self.variants
        }
        return {name: one for name, one in found.items() if one is not None}

    @property
    def variants(self) -> list[str]:
        """The variants that have been trained, in the study's order."""
        return [name for name in self.study.variants if self.reproduced.get(name)]

    @property
    def failures(self) -> list[FrozenTrial]:
        """The trials that failed or diverged."""
        return [
            trial
            for trial in self.overview.trials
            if trial.state == TrialState.FAIL or DIVERGED in trial.user_attrs
        ]


def _repeats(database: Database, name: str) -> dict[str, Mapping[int, Sequence[Epoch]]]:
    if stored_definition(database, name) is None:
        return {}
    return dict(repeats(Overview.of_study(database, name)))


def _of_search(overview: Overview) -> dict[str, Mapping[int, Sequence[Epoch]]]:
    """Return the epochs of the search's own variants, as a re-run each."""
    return {
        name: {0: overview.of(trial)}
        for name, trial in overview.variants.items()
        if overview.of(trial)
        and (overview.score(trial) is not None or trial.number not in overview.told)
    }
