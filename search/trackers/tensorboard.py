"""Event files for TensorBoard, written with its own library, without PyTorch or TensorFlow."""

import time
from pathlib import Path
from typing import Any

from search.study.callbacks import Callback, TrialInfo, TrialResult
from search.study.metrics import Epoch
from search.trackers.common import REASON, STATE, VALUE, check_library


class TensorBoard(Callback):
    """Writes a run for each trial, in the folder `folder`/STUDY/KEY; needs the extra `tensorboard`.

    The steps are epochs. A trial that goes on gets another file in the same folder.
    """

    def __init__(self, folder: str | Path = "runs") -> None:
        """`folder` is relative to the worker's current folder; workers may share it."""
        self._folder = Path(folder)
        self._run: tuple[str, _EventFile] | None = None
        """The key of the trial that runs, and its file."""

    def setup(self) -> None:
        check_library("tensorboard")

    def teardown(self) -> None:
        if self._run is not None:
            self._run[1].close()
        self._run = None

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        file = self._of(trial)
        for name, value in epoch.metrics.items():
            file.scalar(name, value, step=epoch.number)
        file.flush()

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        file = self._of(trial)
        step = 0 if result.last is None else result.last.number
        if result.value is not None:
            file.scalar(VALUE, result.value, step=step)
        file.text(STATE, result.state, step=step)
        if result.reason:
            file.text(REASON, result.reason, step=step)
        file.end(has_failed=result.state == "failed")
        self.teardown()

    def _of(self, trial: TrialInfo) -> "_EventFile":
        if self._run is None or self._run[0] != trial.key:
            self.teardown()
            folder = self._folder / trial.study / trial.key
            self._run = trial.key, _EventFile(folder, trial)
        return self._run[1]


class _EventFile:
    """A new file of a run, which begins with the trial's choices."""

    def __init__(self, folder: Path, trial: TrialInfo) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))
        params = {  # it has no value for None
            name: "None" if value is None else value for name, value in trial.params.items()
        }
        self._add(hparams_pb(params, trial_id=trial.key))

    def scalar(self, name: str, value: float, *, step: int) -> None:
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        self._add(scalar_pb(name, value), step=step)

    def text(self, name: str, text: str, *, step: int) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(text_pb(name, text), step=step)

    def end(self, *, has_failed: bool) -> None:
        """Add the end of the trial; the library's own function for it needs TensorFlow."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

        ended = SessionEndInfo(
            status=api_pb2.STATUS_FAILURE if has_failed else api_pb2.STATUS_SUCCESS,
            end_time_secs=time.time(),
        )
        summary = Summary()
        summary.value.add(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(HParamsPluginData(session_end_info=ended)),
            tensor=metadata.NULL_TENSOR,
        )
        self._add(summary)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, summary: Any, *, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
