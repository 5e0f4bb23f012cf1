"""TensorBoard's event files, read with its own reader."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util.tensor_util import make_ndarray

from search.study.callbacks import TrialInfo, TrialResult
from search.study.space import Value
from search.study.study import Study
from search.trackers import TensorBoard
from tests.support.callbacks import Fails
from tests.support.curves import loss, value
from tests.support.epochs import epoch
from tests.support.process import Killed, Process, Start, killed_at


@dataclass(frozen=True)
class Runs:
    """What TensorBoard reads in a folder."""

    read: Any

    @classmethod
    def of(cls, folder: Path) -> "Runs":
        read = EventMultiplexer().AddRunsFromDirectory(str(folder))
        read.Reload()
        return cls(read)

    @property
    def names(self) -> set[str]:
        return set(self.read.Runs())

    def series(self, run: str, tag: str) -> dict[int, Any]:
        """Return the values by step, each of which occurs once."""
        events = self.read.Tensors(run, tag)
        found = {one.step: make_ndarray(one.tensor_proto).item() for one in events}
        assert len(found) == len(events)
        return found

    def text(self, run: str, tag: str) -> str:
        """Return the last of the texts."""
        *_, last = self.series(run, tag).values()
        return str(last.decode())

    def params(self, run: str) -> Mapping[str, Any]:
        content = self._hparams(run, metadata.SESSION_START_INFO_TAG)
        found = metadata.parse_session_start_info_plugin_data(content).hparams
        return {name: getattr(one, one.WhichOneof("kind")) for name, one in found.items()}

    def status(self, run: str) -> Any:
        content = self._hparams(run, metadata.SESSION_END_INFO_TAG)
        return metadata.parse_session_end_info_plugin_data(content).status

    def _hparams(self, run: str, tag: str) -> Any:
        return self.read.SummaryMetadata(run, tag).plugin_data.content


def _name(process: Process, number: int) -> str:
    return f"curves/{process.ref.key}-{number}"


def test_a_run_for_each_trial_has_all_metrics_by_epoch_and_its_end(
    start: Start, study: Study, tmp_path: Path
) -> None:
    process = start(replace(study, callbacks=[TensorBoard(tmp_path / "runs")]))
    process.work()
    runs = Runs.of(tmp_path / "runs")
    assert runs.names == {_name(process, trial.number) for trial in process.trials}
    assert len({trial.last_step for trial in process.trials}) > 2, "some were promoted"
    for trial in process.trials:
        run, x, last = _name(process, trial.number), trial.params["x"], trial.last_step or 0
        for metric in (value, loss):
            expected = {n: np.float32(metric(x, n)) for n in range(1, last + 1)}
            assert runs.series(run, metric.__name__) == expected
        ends = runs.series(run, "search/value")
        assert ends[last] == np.float32(trial.value)
        assert set(ends) == ({10} if trial.number == 0 else {e for e in (1, 4, 10) if e <= last})
        assert runs.text(run, "search/state") == trial.state.name.lower()
        assert runs.params(run) == {"x": x}
        assert runs.status(run) == api_pb2.STATUS_SUCCESS
    assert "waits to be promoted" in runs.text(_name(process, 2), "search/reason")


def test_a_killed_trial_goes_on_in_the_same_run(start: Start, study: Study, tmp_path: Path) -> None:
    study = replace(study, callbacks=[TensorBoard(tmp_path / "runs")])
    killed = start(study)
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(4))
    run = _name(killed, 0)
    assert list(Runs.of(tmp_path / "runs").series(run, "value")) == [1, 2, 3]  # before its end
    heir = start(replace(study, callbacks=[TensorBoard(tmp_path / "runs")]))
    heir.run(heir.claim())
    runs = Runs.of(tmp_path / "runs")
    assert runs.names == {run}
    assert list(runs.series(run, "value")) == list(range(1, 11))


def test_a_failed_trial_says_so(start: Start, study: Study, tmp_path: Path) -> None:
    process = start(replace(study, train=Fails, callbacks=[TensorBoard(tmp_path / "runs")]))
    process.run(process.claim())
    runs, run = Runs.of(tmp_path / "runs"), _name(process, 0)
    assert runs.text(run, "search/state") == "failed"
    assert runs.text(run, "search/reason").startswith("ArithmeticError: too hot")
    assert runs.status(run) == api_pb2.STATUS_FAILURE
    assert "search/value" not in runs.read.Runs()[run]["tensors"]


def test_choices_of_all_types_are_hyperparameters(tmp_path: Path) -> None:
    params: dict[str, Value] = {"lr": 0.1, "steps": 3, "nesterov": True, "kind": "a", "decay": None}
    trial = TrialInfo(
        study="types",
        study_key="0123456789abcdef",
        number=7,
        name=None,
        params=params,
        seed=1,
        metric="loss",
        direction="minimize",
    )
    tracker = TensorBoard(tmp_path)
    tracker.after_epoch(trial, epoch(1, loss=0.5))
    tracker.after_trial(
        trial, TrialResult(state="complete", value=0.5, reason="", last=epoch(1, loss=0.5))
    )
    assert Runs.of(tmp_path).params("types/0123456789abcdef-7") == params | {"decay": "None"}
