"""What this service assumes of Optuna without Optuna's promise: one test for each assumption."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.distributions import FloatDistribution
from optuna.samplers import QMCSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, create_engine, event, inspect, select

from search.database import optuna_internals as internals
from search.database.database import Database
from search.errors import UserError


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    """A study of two trials: one complete, one waiting."""
    made = optuna.create_study(storage=storage, study_name="one", direction="maximize")
    made.enqueue_trial({"x": 0.25}, user_attrs={"of": "ours"})
    trial = made.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, step=1)
    made.tell(trial, 0.5)
    made.enqueue_trial({"x": 0.75})
    return made


Rows = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def rows(storage: RDBStorage) -> Rows:
    def rows(*columns: object) -> list[tuple[object, ...]]:
        with storage.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(select(*columns))]  # type: ignore[call-overload]

    return rows


def test_tables_are_those_that_optuna_creates(storage: RDBStorage) -> None:
    created = inspect(storage.engine)
    assert {
        name: {column["name"] for column in created.get_columns(name)}
        for name in created.get_table_names()
    } == internals.COLUMNS


def test_prepared_tables_are_as_optuna_leaves_them(storage: RDBStorage, tmp_path: Path) -> None:
    ours = create_engine(f"sqlite:///{tmp_path / 'ours.db'}")
    with ours.begin() as connection:
        internals.prepare_tables(connection, "ours.db")

    def schema(connection: Connection) -> list[tuple[object, ...]]:
        text = "SELECT name, sql FROM sqlite_master ORDER BY name"
        tables = [tuple(row) for row in connection.exec_driver_sql(text)]
        for name in ("alembic_version", "version_info"):
            tables += [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")]
        return tables

    with ours.connect() as mine, storage.engine.connect() as theirs:
        assert schema(mine) == schema(theirs)


def test_tables_of_another_optuna_are_refused(storage: RDBStorage) -> None:
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v0'")
        with pytest.raises(UserError, match="its tables are of schema v0"):
            internals.prepare_tables(connection, "here")


def test_study_rows_hold_name_and_direction(study: optuna.Study, rows: Rows) -> None:
    studies, directions = internals.studies.c, internals.study_directions.c
    here = internals.study_id(study)
    assert rows(studies.study_id, studies.study_name) == [(here, "one")]
    assert rows(directions.study_id, directions.direction) == [(here, StudyDirection.MAXIMIZE)]


def test_trial_rows_hold_number_state_values_and_params(study: optuna.Study, rows: Rows) -> None:
    first, second = study.trials
    trials, values, params = internals.trials.c, internals.trial_values.c, internals.trial_params.c
    here, one = internals.study_id(study), internals.trial_id(first)
    assert rows(trials.trial_id, trials.study_id, trials.number, trials.state) == [
        (one, here, 0, TrialState.COMPLETE),
        (internals.trial_id(second), here, 1, TrialState.WAITING),
    ]
    assert rows(values.trial_id, values.value) == [(one, 0.5)]
    steps = internals.intermediate_values.c
    assert rows(steps.trial_id, steps.step, steps.intermediate_value) == [(one, 1, 0.5)]
    ((of, name, value, text),) = rows(
        params.trial_id, params.param_name, params.param_value, params.distribution_json
    )
    assert (of, name, value) == (one, "x", 0.25)
    assert optuna.distributions.json_to_distribution(str(text)) == FloatDistribution(0, 1)


def test_attributes_are_rows_of_json(study: optuna.Study, rows: Rows) -> None:
    study.set_user_attr("our", {"n": 1})
    user, system = internals.study_user_attributes.c, internals.trial_user_attributes.c
    here, one = internals.study_id(study), internals.trial_id(study.trials[0])
    ((of, key, text),) = rows(user.study_id, user.key, user.value_json)
    assert (of, key, json.loads(str(text))) == (here, "our", {"n": 1})
    assert rows(system.trial_id, system.key, system.value_json) == [(one, "of", '"ours"')]


def test_values_of_an_enqueued_trial_are_a_system_attribute(
    study: optuna.Study, rows: Rows
) -> None:
    assert [trial.system_attrs for trial in study.trials] == [
        {internals.FIXED_PARAMS: {"x": x}} for x in (0.25, 0.75)
    ]
    system = internals.trial_system_attributes.c
    assert [json.loads(str(value)) for (value,) in rows(system.value_json)] == [
        {"x": 0.25},
        {"x": 0.75},
    ]


def test_artifact_list_is_optunas_own(
    study: optuna.Study, storage: RDBStorage, tmp_path: Path
) -> None:
    (tmp_path / "curves.svg").write_text("<svg/>")
    ours = internals.artifact_meta("0a-1", "curves.svg", "image/svg+xml")
    waiting = study.trials[1]
    storage.set_trial_system_attr(internals.trial_id(waiting), f"{internals.ARTIFACT}0a-1", ours)
    (meta,) = get_all_artifact_meta(study.trials[1], storage=storage)
    assert (meta.artifact_id, meta.filename, meta.mimetype) == (
        "0a-1", "curves.svg", "image/svg+xml",
    )  # fmt: skip
    uploaded = upload_artifact(
        artifact_store=FileSystemArtifactStore(tmp_path),
        file_path=str(tmp_path / "curves.svg"),
        study_or_trial=waiting,
        storage=storage,
    )
    theirs = study.trials[1].system_attrs[f"{internals.ARTIFACT}{uploaded}"]
    assert json.loads(theirs) == json.loads(ours) | {"artifact_id": uploaded}


@pytest.mark.parametrize(
    ("state", "value"),
    [(TrialState.COMPLETE, 0.5), (TrialState.PRUNED, 0.25), (TrialState.FAIL, None)],
)
def test_trial_ends_as_told_to_optuna(
    study: optuna.Study, storage: RDBStorage, state: TrialState, value: float | None
) -> None:
    told, ended = study.ask(), study.ask()
    for trial in (told, ended):
        trial.suggest_float("y", 0.5, 0.5)
        trial.set_user_attr("reason", "an old one")
        trial.report(0.25, step=1)
    told.set_user_attr("reason", "none")
    study.tell(told, value if state == TrialState.COMPLETE else None, state=state)
    attributes = {"reason": "none"}

    def end() -> bool:
        with storage.engine.begin() as connection:
            trial_id = internals.trial_id(ended)
            return internals.end_trial(connection, trial_id, state, value, attributes)

    assert end()
    *_, theirs, ours = study.trials
    assert (ours.state, ours.values, ours.user_attrs) == (state, theirs.values, theirs.user_attrs)
    assert ours.datetime_complete is not None
    assert theirs.datetime_complete is not None
    apart = ours.datetime_complete - theirs.datetime_complete
    assert abs(apart.total_seconds()) < 60, "in the same time zone"
    assert not end(), "it is not running any more"
    assert study.trials[-1] == ours


def test_pruned_trial_runs_again_and_ends_again(study: optuna.Study, storage: RDBStorage) -> None:
    cache = internals.RereadableStorage(storage)
    here, waiting = internals.study_id(study), study.ask()
    waiting.suggest_float("x", 0, 1)
    waiting.report(0.25, step=1)
    waiting.set_user_attr("reason", "poor")
    study.tell(waiting, state=TrialState.PRUNED)
    trial_id = internals.trial_id(waiting)
    assert cache.get_all_trials(here)[1].state == TrialState.PRUNED

    def reopen() -> bool:
        with storage.engine.begin() as connection:
            return internals.reopen_trial(connection, trial_id, {"reopened": 1}, ["reason"])

    assert reopen()
    assert not reopen(), "it runs"
    for seen in (cache.get_all_trials(here)[1], cache.get_trial(trial_id), study.trials[1]):
        assert (seen.state, seen.values, seen.datetime_complete) == (TrialState.RUNNING, None, None)
        assert (seen.params, seen.intermediate_values) == ({"x": 0.75}, {1: 0.25})
        assert seen.user_attrs == {"reopened": 1}
    again = internals.open_trial(optuna.load_study(study_name="one", storage=cache), trial_id)
    again.report(0.5, step=2)
    study.tell(waiting, 0.5)
    for seen in (cache.get_all_trials(here)[1], cache.get_trial(trial_id)):
        assert (seen.state, seen.value) == (TrialState.COMPLETE, 0.5)
        assert seen.intermediate_values == {1: 0.25, 2: 0.5}


def test_a_trial_that_is_reopened_while_it_is_read_is_not_seen_pruned(
    database: Database,
) -> None:
    study = optuna.create_study(storage=database.optuna)
    trial = study.ask()
    trial.report(0.25, step=1)
    trial.set_user_attr("reason", "poor")
    study.tell(trial, state=TrialState.PRUNED)
    n_reads = 0

    def reopen(*statement: Any) -> None:
        nonlocal n_reads
        if "trials.state AS" in statement[2]:
            n_reads += 1
            with database.lock("other") as connection:
                trial_id = internals.trial_id(trial)
                internals.reopen_trial(connection, trial_id, {"reopened": 1}, ["reason"])

    event.listen(database.engine, "after_cursor_execute", reopen)
    (seen,) = database.optuna.get_all_trials(internals.study_id(study))
    assert n_reads
    assert (seen.state, seen.user_attrs) == (TrialState.RUNNING, {"reopened": 1})


def test_opened_trial_sees_trials_that_others_ended_and_enqueued(
    study: optuna.Study, storage: RDBStorage
) -> None:
    mine = optuna.load_study(study_name="one", storage=internals.RereadableStorage(storage))
    internals.open_trial(mine, internals.trial_id(study.trials[1]))
    study.enqueue_trial({"x": 0.5})  # by another process
    third = study.trials[2]
    storage.set_trial_state_values(internals.trial_id(third), TrialState.RUNNING)
    opened = internals.open_trial(mine, internals.trial_id(third))
    assert opened.suggest_float("x", 0, 1) == 0.5
    assert len(mine.get_trials(deepcopy=False)) == 3


def test_reported_trial_has_what_was_reported_last(study: optuna.Study) -> None:
    trial = study.ask()
    trial.report(0.25, step=1)
    trial.report(0.75, step=2)
    seen = internals.reported(trial)
    assert isinstance(seen, FrozenTrial)
    assert (seen.number, seen.last_step, seen.intermediate_values) == (1, 2, {1: 0.25, 2: 0.75})


def test_study_view_shows_a_sampler_what_was_selected(study: optuna.Study) -> None:
    view = internals.StudyView(study, lambda trials: trials[1:])
    assert [trial.number for trial in view.trials] == [1]
    assert view.get_trials(states=(TrialState.COMPLETE,)) == []
    seen: list[int] = []

    class Looking(optuna.samplers.TPESampler):
        def sample_independent(self, study: optuna.Study, *rest: object) -> float:
            seen.extend(trial.number for trial in study.get_trials(deepcopy=False))
            return super().sample_independent(study, *rest)  # type: ignore[arg-type,no-any-return]

    Looking(seed=0).sample_independent(view, study.trials[1], "x", FloatDistribution(0, 1))
    assert seen == [1]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_pinned_sequence_returns_the_point_of_its_place(study: optuna.Study) -> None:
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}

    def point(place: int, seed: int = 3) -> dict[str, object]:
        sampler = QMCSampler(scramble=True, warn_independent_sampling=False)
        internals.pin_sequence(sampler, seed=seed, place=place)
        return sampler.sample_relative(study, study.trials[1], space)  # type: ignore[arg-type]

    following = QMCSampler(scramble=True, seed=3, warn_independent_sampling=False)
    drawn = [following.sample_relative(study, study.trials[1], space) for _ in range(3)]  # type: ignore[arg-type]
    assert [point(place) for place in (0, 1, 2)] == drawn
    assert point(2) == drawn[2]
    assert point(2, seed=4) != drawn[2]


def test_cache_keeps_ended_trials_until_they_are_forgotten(
    study: optuna.Study, storage: RDBStorage
) -> None:
    cache = internals.RereadableStorage(storage)
    here = internals.study_id(study)
    (ended, _) = cache.get_all_trials(here)
    table = internals.trial_user_attributes
    with storage.engine.begin() as connection:
        connection.execute(table.delete())
    assert cache.get_all_trials(here)[0].user_attrs == {"of": "ours"}
    cache.forget_trials(here, {internals.trial_id(ended)})
    assert cache.get_all_trials(here)[0].user_attrs == {}


def test_cache_forgets_a_deleted_study_whose_ids_are_given_out_again(
    study: optuna.Study, storage: RDBStorage
) -> None:
    cache = internals.RereadableStorage(storage)
    here = internals.study_id(study)
    assert len(cache.get_all_trials(here)) == 2
    optuna.delete_study(study_name="one", storage=storage)
    made = optuna.create_study(study_name="two", storage=storage)
    made.tell(made.ask(), 0.0)
    assert internals.study_id(made) == here, "SQLite gives ids out again"
    cache.forget_study(here)
    assert [trial.values for trial in cache.get_all_trials(here)] == [[0.0]]


def test_a_trial_can_have_other_categories_than_those_before_it(storage: RDBStorage) -> None:
    """Optuna refuses it, also where no process has seen the study's earlier trials."""
    for opened in (storage, internals.RereadableStorage(storage)):
        name = type(opened).__name__
        study = optuna.create_study(storage=opened, study_name=name)
        first, second = study.ask(), study.ask()
        first.suggest_categorical("kind", ["a", "b"])
        if opened is storage:
            with pytest.raises(ValueError, match="does not support dynamic value space"):
                second.suggest_categorical("kind", ["c"])
            continue
        second.suggest_categorical("kind", ["c"])
        assert second.params == {"kind": "c"}
        assert [list(trial.params) for trial in study.trials] == [["kind"]] * 2
