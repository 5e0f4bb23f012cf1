"""A study whose ranges change goes on: its trials stay what they are, and what fits still informs
the sampler."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import NopPruner
from optuna.trial import TrialState, create_trial

from search.analysis.audit import audits
from search.artifacts.store import open_artifacts
from search.artifacts.whole_study import copy
from search.database import queries, steering
from search.database.database import Database
from search.database.leases import LeaseLost
from search.database.redefinition import redefinitions
from search.database.snapshot import Observer, Overview
from search.database.studies import join
from search.errors import UserError
from search.study.definition import history
from search.study.metrics import Metrics
from search.study.samplers import TPE
from search.study.study import Study
from search.study.training import Run
from search.worker import worker
from search.worker.claims import Standing
from search.worker.repeatable_sampler import RepeatableSampler
from search.worker.result import Outcome
from tests.support.commands import Command
from tests.support.curves import BY_LOSS, PROMOTION, Curve, value
from tests.support.curves import study as curves
from tests.support.process import Killed, Start, killed_at


@dataclass(frozen=True, kw_only=True)
class Before:
    x: Annotated[float, FloatDistribution(0.0, 1.0)]
    kind: Literal["a", "b"]


@dataclass(frozen=True, kw_only=True)
class After:
    """A range that is wider at one end and narrower at the other, another category, and a choice
    that is new."""

    x: Annotated[float, FloatDistribution(0.25, 2.0)]
    kind: Literal["b", "c"]
    y: Annotated[float, FloatDistribution(0.0, 0.5)] = 0.125


class Training:
    """Ends at `x + y` from below; `y` was 0.125 before it was a choice."""

    def __init__(self, run: Run[Any]) -> None:
        self._run = run

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        choices = self._run.choices
        for epoch in range(after + 1, self._run.epochs + 1):
            self._run.after_batch(1)
            yield {"value": (choices.x + getattr(choices, "y", 0.125)) * epoch}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


before: Study[Any] = Study(
    name="mine",
    choices=Before,
    train=Training,
    metric="value",
    trials=20,
    epochs=3,
    pruner=NopPruner(),
)
after = replace(before, choices=After, trials=30)


@pytest.fixture
def study() -> Study:
    return before


def test_trials_of_before_stay_and_new_ones_take_the_new_ranges(start: Start) -> None:
    first = start()
    first.work()
    old = [(trial.params, trial.value) for trial in first.trials]
    assert {params["kind"] for params, _ in old} == {"a", "b"}
    with pytest.raises(UserError, match=r"range of kind is 'a, b' in the database.*--redefine"):
        start(after)
    process = start(after, redefine=True)
    process.work()
    assert [(trial.params, trial.value) for trial in process.trials[:20]] == old
    new = [trial.params for trial in process.trials[20:]]
    assert len(new) == 10
    assert all(0.25 <= one["x"] <= 2.0 and one["kind"] in "bc" and "y" in one for one in new)
    assert {one["kind"] for one in new} == {"b", "c"}
    assert max(one["x"] for one in new) > 1.0
    (found,) = redefinitions(process.database, process.ref)
    definition = process.joined.user_attrs["definition"]
    assert found.trial == 20
    assert history(definition, [found]) == [
        "From trial 20 on: range of x 0.25 to 2 (before: 0 to 1); range of kind b, c (before: "
        "a, b); range of y 0 to 0.5 (new)."
    ]
    with pytest.raises(UserError, match="the choices lack y, which trials of the study mine have"):
        start(replace(before, trials=32), redefine=True)
    assert redefinitions(process.database, process.ref) == [found]


def test_the_sampler_learns_from_trials_of_before_that_fit(start: Start) -> None:
    start().work()
    process = start(after, redefine=True)
    reference = optuna.create_study(direction="maximize")
    ranges = {
        "x": FloatDistribution(0.25, 2.0),
        "kind": CategoricalDistribution(["b", "c"]),
        "y": FloatDistribution(0.0, 0.5),
    }
    fitting = [t for t in process.trials if t.params["x"] >= 0.25 and t.params["kind"] == "b"]
    assert 2 < len(fitting) < 15, "some do not fit"
    study = replace(after, sampler=TPE(startup_trials=2))
    process.close()
    process = start(study, redefine=True)
    process.run(process.claim())
    for trial in fitting:
        assert trial.value is not None
        reference.add_trial(
            create_trial(
                value=trial.value,
                params={**trial.params, "y": 0.125},
                distributions=ranges,
                intermediate_values=trial.intermediate_values,
            )
        )
    while len(reference.trials) < 20:  # the new trial's number decides its seed
        reference.add_trial(create_trial(state=TrialState.FAIL))
    reference.sampler = RepeatableSampler(TPE(startup_trials=2), study.seed)
    expected = reference.ask(ranges)
    assert process.trials[20].params == expected.params


def test_a_begun_trial_goes_on_with_its_values_and_others_are_drawn_again(start: Start) -> None:
    undisturbed = start(replace(before, name="undisturbed", trials=3))
    undisturbed.work()
    process, other = start(), start()
    process.run(process.claim())
    begun, drawn = process.claim(), other.claim()
    with pytest.raises(Killed):
        process.run(begun, killed_at(3))
    with pytest.raises(Killed):
        other.run(drawn, killed_at(1))
    assert [trial.last_step for trial in process.trials] == [3, 1, None]
    outside = process.trials[2].params
    process.claims.release(begun)
    other.claims.release(drawn)
    narrow = replace(
        after, ranges={"x": FloatDistribution(5.0, 6.0), "kind": CategoricalDistribution(["c"])}
    )
    again = start(narrow, redefine=True)
    again.work()
    second, third = again.trials[1:3]
    assert second.params == undisturbed.trials[1].params
    assert second.value == undisturbed.trials[1].value
    assert third.params != outside
    assert 5.0 <= third.params["x"] <= 6.0
    assert (third.params["kind"], third.state) == ("c", TrialState.COMPLETE)


def test_a_variant_that_waits_has_the_default(start: Start) -> None:
    variants: dict[str, Any] = {"one": Before(x=0.5, kind="b"), "two": Before(x=0.75, kind="b")}
    process = start(replace(before, variants=variants))
    process.run(process.claim())
    new = {"one": After(x=0.5, kind="b"), "two": After(x=0.75, kind="b")}
    again = start(replace(after, variants=new, trials=3), redefine=True)
    again.work()
    assert again.trials[1].params == {"x": 0.75, "kind": "b", "y": 0.125}
    values = {trial.user_attrs.get("variant"): trial.value for trial in again.trials}
    assert (values["one"], values["two"]) == (0.625 * 3, 0.875 * 3)
    assert len(again.trials) == 3
    changed = {**new, "one": After(x=0.5, kind="b", y=0.25)}
    with pytest.raises(UserError, match=r"one is x=0\.5 kind=b y=0\.125 in the database"):
        start(replace(after, variants=changed))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("study", "complaint"),
    [
        (replace(after, epochs=4), "epochs is 3 in the database and 4 here"),
        (
            replace(before, choices=After, ranges={"kind": CategoricalDistribution(["c"])}),
            "trial 1 was enqueued with kind must be one of c, not b; the command `cancel`",
        ),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_is_written(
    start: Start, study: Study, complaint: str
) -> None:
    process = start(before)
    process.run(process.claim())
    process.joined.enqueue_trial({"kind": "b"})
    definition = process.joined.user_attrs["definition"]
    with pytest.raises(UserError, match=complaint):
        start(study, redefine=True)
    assert process.joined.user_attrs["definition"] == definition
    assert not redefinitions(process.database, process.ref)
    process.work()
    assert len(process.trials) == 20


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_new_choice_needs_a_default_unless_its_class_is_new(start: Start) -> None:
    @dataclass(frozen=True)
    class Plain: ...

    @dataclass(frozen=True)
    class Noisy:
        level: Annotated[float, FloatDistribution(0.0, 1.0)]

    @dataclass(frozen=True, kw_only=True)
    class One(Before):
        noise: Plain | Noisy

    @dataclass(frozen=True, kw_only=True)
    class Two(Before):
        noise: Plain | Noisy = Plain()

    process = start(before)
    process.work()
    with pytest.raises(UserError, match="noise is new; give its field a default"):
        start(replace(before, choices=One), redefine=True)
    process = start(replace(before, choices=Two, trials=26), redefine=True)
    process.work()
    taken = [trial for trial in process.trials[20:] if trial.params["noise"] == "Noisy"]
    assert taken, "a class that is new"
    assert all("noise.Noisy.level" in trial.params for trial in taken)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_class_that_trials_may_have_taken_stays(start: Start) -> None:
    @dataclass(frozen=True)
    class Plain: ...

    @dataclass(frozen=True)
    class Other: ...

    @dataclass(frozen=True)
    class One:
        noise: Plain | Other

    @dataclass(frozen=True)
    class Two:
        noise: Other

    @dataclass(frozen=True)
    class Three:
        noise: Other | Before

    start(replace(before, choices=One))
    for choices in (Two, Three):
        with pytest.raises(UserError, match="noise lacks the class Plain, which trials of the"):
            start(replace(before, choices=choices), redefine=True)


def test_a_failed_variant_is_tried_again_with_the_default(start: Start) -> None:
    process = start(replace(before, variants={"one": Before(x=0.5, kind="b")}))
    for _ in range(2):
        process.claims.finish(process.claim(), Outcome(state=TrialState.FAIL, reason="no memory"))
    new = replace(after, variants={"one": After(x=0.5, kind="b")}, trials=1)
    again = start(new, redefine=True)
    again.work()
    *_, last = again.trials
    assert last.params == {"x": 0.5, "kind": "b", "y": 0.125}
    assert (last.state, last.user_attrs["variant"]) == (TrialState.COMPLETE, "one")
    start(new)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_that_wakes_up_after_a_redefinition_records_nothing(start: Start) -> None:
    silent = start(lease_seconds=0.0)
    held = silent.claim()
    again = start(replace(after, trials=1), redefine=True)
    with pytest.raises(LeaseLost):
        silent.run(held)
    again.work()
    (trial,) = again.trials
    assert (trial.state, set(trial.params)) == (TrialState.COMPLETE, {"x", "kind", "y"})


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_that_has_just_joined_the_old_definition_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()

    def joined_just_before(*arguments: Any, **options: Any) -> optuna.Study:
        found = join(*arguments, **options)
        monkeypatch.setattr(worker, "join", join)
        start(after, redefine=True)
        return found

    monkeypatch.setattr(worker, "join", joined_just_before)
    assert start().claims.claim() is Standing.STOPPED


def test_a_trial_that_another_pruner_let_pass_a_rung_goes_on_to_the_next(start: Start) -> None:
    study = replace(curves, pruner=NopPruner(), trials=1)
    process = start(study)
    with pytest.raises(Killed):
        process.run(process.claim(), killed_at(4))
    assert [epoch for _, epoch in process.order] == [1, 2, 3]
    process.close()
    process = start(replace(study, pruner=PROMOTION), redefine=True)
    assert process.claim().until == 4


def test_trials_of_before_that_lack_the_first_loss_are_last_on_its_rung(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(curves, pruner=NopPruner(), trials=4)
    with monkeypatch.context() as patch:
        patch.setattr(Curve, "fit", _without_loss)
        process = start(study)
        for _ in range(3):
            process.run(process.claim())
        with pytest.raises(Killed):  # after the first epoch
            process.run(process.claim(), killed_at(3))
        process.close()
    by_loss = start(replace(study, pruner=BY_LOSS, trials=8), redefine=True)
    by_loss.work()
    begun = by_loss.trials[3]
    at_rung = f"value {value(begun.params['x'], 1):.4f} at epoch 1, where it waits to be promoted"
    assert begun.user_attrs["reason"] == at_rung
    by_loss.close()
    by_loss = start(replace(study, pruner=BY_LOSS, trials=8, audit=1.0))
    by_loss.work()
    overview = Observer(by_loss.database, by_loss.joined).look()
    has_loss = {n for n, epochs in overview.epochs.items() if "loss" in epochs[0].metrics}
    assert set() < has_loss < set(overview.epochs)
    with by_loss.database.engine.connect() as connection:
        ranked = queries.best_on_rung(connection, by_loss.ref, 1, n=8, loss="loss")
    assert set(ranked[: len(has_loss)]) == has_loss
    (first, *_) = audits(overview, BY_LOSS)
    assert first.rung == 1


def _without_loss(self: Curve, after: int = 0) -> Iterator[Metrics]:
    for epoch in range(after + 1, self.run.epochs + 1):
        self.epoch = epoch
        self.run.after_batch(1)
        yield {"value": value(self.run.choices.x, epoch)}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_same_redefinition_twice_is_one(start: Start) -> None:
    start()
    first, second = start(after, redefine=True), start(after, redefine=True)
    assert len(redefinitions(second.database, second.ref)) == 1
    first.run(first.claim())


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_workers_of_the_old_definition_end(start: Start) -> None:
    process, other = start(), start()
    steering.pause(process.database, process.ref, is_paused=True)
    assert process.claims.claim() is Standing.PAUSED
    steering.pause(process.database, process.ref, is_paused=False)
    held = other.claim()
    with pytest.raises(UserError, match="1 worker is running trials of it"):
        start(after, redefine=True)
    other.claims.release(held)
    again = start(after, redefine=True)
    assert process.claims.claim() is Standing.STOPPED
    assert again.claim().number == held.number


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_copy_is_redefined_too(start: Start, tmp_path: Path) -> None:
    start().work()
    process = start(after, redefine=True)
    copy(process.database, open_artifacts(str(tmp_path)), process.ref, "copy")
    process.work()
    copied = start(replace(after, name="copy"))
    copied.work()
    assert copied.figures() == process.figures()


def test_trials_of_before_run_again_with_the_default(search: Command, tmp_path: Path) -> None:
    for name in ("Before", "After"):
        text = f"from tests.guarantees.test_redefinition import {name.lower()} as study\n"
        (tmp_path / f"{name}.py").write_text(text)
    search("run", "--study", "Before.py", "--trials", 4, "--confirm")
    confirmed = search("run", "--study", "After.py", "--trials", 6, "--redefine", "--confirm")
    assert (confirmed.returncode, "Stopped" in confirmed.stdout) == (0, False), confirmed.stdout
    assert "another --name" not in confirmed.stdout + confirmed.stderr
    assert "The study's file has changed" not in confirmed.stdout
    again = search("reproduce", "--study", "After.py", "--top", 6, "--repeats", 2)
    replayed = search("reproduce", "--study", "After.py", "--trial", 1)
    assert (again.returncode, replayed.returncode) == (0, 0), again.stderr + replayed.stderr
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    first, runs = (Overview.of_study(database, name).trials for name in ("mine", "mine-rerun"))
    database.close()
    assert any(trial.params["x"] < 0.25 or trial.params["kind"] == "a" for trial in first)
    assert {run.user_attrs["trial"] for run in runs} == set(range(6))
    assert {run.state for run in runs} == {TrialState.COMPLETE}
    for run in runs:
        default, trial = {"y": 0.125}, first[run.user_attrs["trial"]]
        assert default | run.params == default | trial.params
    assert "All metrics are the same, bit for bit" in replayed.stdout
    report = search("report", "--study", "After.py", "--format", "json", "--out", "-")
    (change,) = json.loads(report.stdout)["changes"]
    assert change.startswith("From trial 4 on: range of x 0.25 to 2 (before: 0 to 1); ")
