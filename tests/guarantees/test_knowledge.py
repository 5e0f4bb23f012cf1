"""A study can learn from the trials of another one, which are no trials of its own."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import func, select

from search.artifacts.store import open_artifacts
from search.artifacts.whole_study import copy, delete
from search.database import tables
from search.database.knowledge import changes, known
from search.errors import UserError
from search.study.samplers import TPE
from search.study.study import Study
from search.worker.repeatable_sampler import RepeatableSampler
from tests.support.commands import Command
from tests.support.curves import HALVING
from tests.support.curves import study as curves
from tests.support.process import Process, Start

N = 20
SAMPLER = TPE(startup_trials=4)
LEARNER = replace(curves, name="learner", sampler=SAMPLER, trials=8, seed=3)
X = FloatDistribution(0.0, 1.0)


@pytest.fixture
def study() -> Study:
    return replace(curves, trials=N, pruner=HALVING)


def _learned(trial: FrozenTrial) -> FrozenTrial:
    return create_trial(
        state=trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions={"x": X},
        intermediate_values=trial.intermediate_values,
    )


def _suggested(trials: list[FrozenTrial]) -> dict[str, float]:
    """Return what the sampler suggests for the first trial of a study after `trials`."""
    reference = optuna.create_study(direction="maximize")
    reference.ask()
    for trial in trials:
        reference.add_trial(trial)
    sampler, first = RepeatableSampler(SAMPLER, LEARNER.seed), reference.trials[0]
    space = sampler.infer_relative_search_space(reference, first)
    return sampler.sample_relative(reference, first, space)


def test_its_first_trial_is_suggested_from_theirs(start: Start) -> None:
    other = start()
    other.work()
    assert {trial.state for trial in other.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    learner = start(LEARNER, learn_from=["curves"])
    learner.run(learner.claim())
    (trial,) = learner.trials
    assert trial.params == _suggested(list(map(_learned, other.trials)))
    alone = start(replace(LEARNER, name="alone"))
    alone.run(alone.claim())
    assert alone.trials[0].params != trial.params


def test_what_it_knows_stays_as_it_was(start: Start, tmp_path: Path) -> None:
    other = start()
    other.work()
    learner = start(LEARNER, learn_from=["curves"])
    learner.run(learner.claim())
    learner.close()
    more = start(replace(curves, trials=2 * N, pruner=HALVING))
    more.work()
    learner = start(LEARNER, learn_from=["curves"])
    assert _changes(learner) == ["Its sampler also learns from 20 trials of the study curves."]
    copied = copy(learner.database, open_artifacts(str(tmp_path)), learner.ref, "copy")
    delete(more.database, open_artifacts(str(tmp_path)), [more.ref])
    learner.close()
    learner = start(LEARNER, learn_from=["curves"])  # the same command resumes
    learner.work()
    assert len(learner.trials) == 8
    again = start(replace(LEARNER, name="copy"))
    assert again.ref == copied
    again.work()
    assert again.figures() == learner.figures()
    assert _n_rows(again) == 2 * N
    delete(again.database, open_artifacts(str(tmp_path)), [again.ref, learner.ref])
    assert _n_rows(again) == 0


def _changes(process: Process) -> list[str]:
    return changes(process.database, process.ref, process.worker.study.space)


def _n_rows(process: Process) -> int:
    with process.database.engine.connect() as connection:
        query = select(func.count()).select_from(tables.knowledge)
        return int(connection.execute(query).scalar_one())


def test_only_what_fits_is_learned(start: Start) -> None:
    other = start()
    other.work()
    narrow = replace(LEARNER, ranges={"x": FloatDistribution(0.5, 1.0)})
    learner = start(narrow, learn_from=["curves"])
    fitting = [trial.params["x"] for trial in other.trials if trial.params["x"] >= 0.5]
    assert 3 < len(fitting) < 17
    (found,) = known(learner.database, learner.ref, narrow.space)
    assert [trial.params["x"] for trial in found.trials] == fitting


def test_of_another_task_only_the_ranks_count(start: Start) -> None:
    other = start(replace(curves, epochs=9, trials=N, pruner=HALVING))
    other.work()
    complete = [trial for trial in other.trials if trial.state == TrialState.COMPLETE]
    assert 2 < len(complete) < N
    learner = start(replace(LEARNER, pruner=HALVING), learn_from=["curves"])
    assert _changes(learner) == [
        f"Its sampler also learns from {len(complete)} trials of the study curves, by their ranks."
    ]
    learner.work()
    sampler = learner.joined.sampler
    assert isinstance(sampler, RepeatableSampler)
    own = [trial for trial in learner.trials if trial.state == TrialState.COMPLETE]
    values = sorted(trial.value or 0.0 for trial in own)
    by_rank = sorted(complete, key=lambda trial: trial.value or 0.0)
    assert sampler._experience is not None  # noqa: SLF001
    shown = sampler._experience(learner.trials)[: len(complete)]  # noqa: SLF001
    of = {trial.params["x"]: trial.value for trial in shown}
    ranked = [of[trial.params["x"]] for trial in by_rank]
    assert (ranked[0], ranked[-1]) == (values[0], values[-1])
    assert ranked == sorted(ranked, key=lambda value: value or 0.0)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("study", "name", "complaint"),
    [
        (LEARNER, "none", "study none: .* has no such study"),
        (curves, "curves", "--from curves: it is the study itself"),
        (
            replace(LEARNER, ranges={"x": FloatDistribution(2.0, 3.0)}),
            "curves",
            "--from curves: none of its finished trials fits the study learner",
        ),
        (
            replace(LEARNER, direction="minimize"),
            "curves",
            "--from curves: its direction is maximize, and that of this study is minimize",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    start: Start, study: Study, name: str, complaint: str
) -> None:
    process = start(curves)
    with pytest.raises(UserError, match=complaint):
        start(study, learn_from=[name])
    assert optuna.get_all_study_names(process.database.optuna) == ["curves"]


def test_the_command_says_what_its_sampler_learns_from(search: Command) -> None:
    options = "--study", "digits", "--images", 100, "--epochs", 1, "--no-variants"
    search("run", *options, "--trials", 4, "--name", "small")
    found = search("run", *options, "--trials", 2, "--name", "next", "--from", "small")
    assert "Its sampler also learns from 4 trials of the study small." in found.stdout
    assert "2 of 2 trials are done" in found.stdout
    again = search("run", *options, "--trials", 3, "--name", "next")
    assert "Its sampler also learns from 4 trials of the study small." in again.stdout
    missing = search("run", *options, "--name", "next", "--from", "big")
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
