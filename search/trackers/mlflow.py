"""Runs of an MLflow tracking server, or of its local database."""

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from search.study.callbacks import Callback, TrialInfo, TrialResult
from search.study.metrics import Epoch
from search.trackers.common import KEY, REASON, STATE, VALUE, check_library

REQUESTS: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""How patient the client is, unless the environment says so: by default, a server that is down
would hold up each epoch for minutes."""


class MLflow(Callback):
    """Logs a run for each trial; needs the extra `mlflow`.

    The run is found again by the tag `search/key`, so that a trial that goes on has one run. The
    steps are epochs.
    """

    def __init__(self, uri: str | None = None, *, experiment: str | None = None) -> None:
        """`uri` is the tracking server's; None for MLflow's own default, such as the environment
        variable MLFLOW_TRACKING_URI. `experiment` None is the study's name."""
        self._uri = uri
        self._experiment = experiment
        self._run: tuple[str, str] | None = None
        """The key of the trial that runs, and the id of its run."""

    def setup(self) -> None:
        for name, value in REQUESTS.items():
            os.environ.setdefault(name, value)
        check_library("mlflow")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        self._log(self._of(trial), epoch.metrics, step=epoch.number)

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        run = self._of(trial)
        if result.value is not None:
            step = 0 if result.last is None else result.last.number
            self._log(run, {VALUE: result.value}, step=step)
        self._client.set_tag(run, STATE, result.state)
        self._client.set_tag(run, REASON, result.reason)
        self._client.set_terminated(run, "FAILED" if result.state == "failed" else "FINISHED")
        self._run = None

    def _log(self, run: str, metrics: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(_allowed(name), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(run, metrics=logged)

    def _of(self, trial: TrialInfo) -> str:
        """Return the id of the trial's run, which is in state RUNNING."""
        if self._run is None or self._run[0] != trial.key:
            experiment = self._experiment_id(self._experiment or trial.study)
            there = self._client.search_runs([experiment], f"tags.`{KEY}` = '{trial.key}'")
            if there:
                run = there[0].info.run_id
                self._client.update_run(run, status="RUNNING")
            else:
                run = self._created(experiment, trial)
            self._run = trial.key, run
        return self._run[1]

    def _created(self, experiment: str, trial: TrialInfo) -> str:
        from mlflow.entities import Param

        tags = {KEY: trial.key, "search/study": trial.study, "search/seed": str(trial.seed)}
        name = f"{trial.number} {trial.name or ''}".strip()
        run: str = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
        params = [Param(_allowed(name), str(value)) for name, value in trial.params.items()]
        self._client.log_batch(run, params=params)
        return run

    def _experiment_id(self, name: str) -> str:
        there: Any = self._client.get_experiment_by_name(name)
        if there is None:
            try:
                created: str = self._client.create_experiment(name)
                return created
            except Exception:  # another worker may have created it
                there = self._client.get_experiment_by_name(name)
                if there is None:
                    raise
        found: str = there.experiment_id
        return found


def _allowed(name: str) -> str:
    """Return the name with characters replaced that MLflow refuses."""
    return re.sub(r"[^/\w.\- :]", "_", name)
