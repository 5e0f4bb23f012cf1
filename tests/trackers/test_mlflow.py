"""MLflow's runs, on a real server in a process of its own, read with its client."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow.tracking import MlflowClient

from search.study.study import Study
from search.trackers import MLflow
from tests.support.callbacks import Fails
from tests.support.commands import Command
from tests.support.curves import loss, value
from tests.support.process import Killed, Start, killed_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("test_mlflow"),
]
TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Nothing leaves this machine, and the server starts no processes of its own."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with an empty database."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        for name, of in {**TELEMETRY, "no_proxy": "127.0.0.1"}.items():
            patch.setenv(name, of)
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            place = f"http://127.0.0.1:{port}"
            _until_it_answers(place, process)
            yield place
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # it has a process that serves
            process.wait(60)


def _until_it_answers(place: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 200
    while True:
        try:
            with urlopen(f"{place}/health"):
                return
        except URLError:
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it did not begin"
            time.sleep(0.1)


@pytest.fixture
def study(request: pytest.FixtureRequest, study: Study) -> Study:
    """With an experiment of its own."""
    return replace(study, name=request.node.name[:90], trials=8)


def _runs(server: str, study: Study) -> dict[str, Any]:
    """Return the runs of the study's experiment by the trial's key, of which each has one."""
    client = MlflowClient(server)
    (experiment,) = client.search_experiments(filter_string=f"name = '{study.name}'")
    found = client.search_runs([experiment.experiment_id])
    runs = {run.data.tags["search/key"]: run for run in found}
    assert len(runs) == len(found)
    return runs


def _series(server: str, run: Any, metric: str) -> list[tuple[int, float]]:
    history = MlflowClient(server).get_metric_history(run.info.run_id, metric)
    return [(one.step, one.value) for one in history]


def test_a_run_for_each_trial_has_all_metrics_by_epoch_and_its_end(
    start: Start, study: Study, server: str
) -> None:
    process = start(replace(study, callbacks=[MLflow(server)]))
    process.work()
    runs = _runs(server, study)
    assert len(runs) == len(process.trials)
    assert len({trial.last_step for trial in process.trials}) > 1, "some were promoted"
    for trial in process.trials:
        run, last = runs[f"{process.ref.key}-{trial.number}"], trial.last_step or 0
        for metric in (value, loss):
            expected = [(n, metric(trial.params["x"], n)) for n in range(1, last + 1)]
            assert _series(server, run, metric.__name__) == expected
        assert run.data.metrics["search/value"] == trial.value
        assert run.data.params == {"x": str(trial.params["x"])}
        tags = run.data.tags
        assert tags["search/state"] == trial.state.name.lower()
        assert ("waits to be promoted" in tags["search/reason"]) == (last < 10)
        assert (tags["search/study"], tags["search/seed"]) == (
            study.name,
            str(study.trial_seed(trial)),
        )
        assert run.info.run_name == ("0 half" if trial.number == 0 else str(trial.number))
        assert run.info.status == "FINISHED"


def test_a_killed_trial_goes_on_in_the_same_run(start: Start, study: Study, server: str) -> None:
    killed = start(replace(study, callbacks=[MLflow(server)]))
    with pytest.raises(Killed):
        killed.run(killed.claim(), killed_at(4))
    (run,) = _runs(server, study).values()
    assert run.info.status == "RUNNING"
    assert [step for step, _ in _series(server, run, "value")] == [1, 2, 3]
    heir = start(replace(study, callbacks=[MLflow(server)]))
    heir.run(heir.claim())
    (run,) = _runs(server, study).values()
    assert [step for step, _ in _series(server, run, "value")] == list(range(1, 11))
    assert run.info.status == "FINISHED"


def test_a_run_that_has_ended_is_running_while_its_trial_goes_on(
    start: Start, study: Study, server: str
) -> None:
    study = replace(study, variants={}, callbacks=[MLflow(server)])
    process = start(study)
    process.run(process.claim())
    (run,) = _runs(server, study).values()
    assert run.info.status == "FINISHED"
    with pytest.raises(Killed):  # the only one is the best so far
        process.run(process.claim(), killed_at(2))
    (run,) = _runs(server, study).values()
    assert run.info.status == "RUNNING"


def test_a_failed_trial_says_so(start: Start, study: Study, server: str) -> None:
    process = start(replace(study, train=Fails, callbacks=[MLflow(server, experiment="failed")]))
    process.run(process.claim())
    (run,) = _runs(server, replace(study, name="failed")).values()
    assert run.info.status == "FAILED"
    assert run.data.tags["search/state"] == "failed"
    assert run.data.tags["search/reason"].startswith("ArithmeticError: too hot")
    assert "search/value" not in run.data.metrics


def test_names_that_mlflow_refuses_are_changed(start: Start, study: Study, server: str) -> None:
    class Odd(Fails):
        def fit(self, after: int = 0) -> Any:
            for metrics in super().fit(after):
                yield {**metrics, "recall@5 (micro)": 0.5}

    process = start(replace(study, train=Odd, callbacks=[MLflow(server)]))
    process.run(process.claim())
    (run,) = _runs(server, study).values()
    assert _series(server, run, "recall_5 _micro_") == [(1, 0.5), (2, 0.5)]


def test_workers_in_processes_share_an_experiment(
    search: Command, study: Study, server: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from search.trackers import MLflow\n"
        "from tests.support.curves import study\n"
        f"study = replace(study, name={study.name!r}, callbacks=[MLflow({server!r})], trials=6)\n"
    )
    done = search("run", "--study", "mine.py", "--workers", 2, "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "callbacks" not in done.stdout
    runs = _runs(server, study)
    assert sorted(int(key.partition("-")[2]) for key in runs) == list(range(6))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_server_that_is_down_costs_a_warning_without_its_password(
    start: Start, study: Study, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tracker = MLflow(f"http://me:open-sesame@127.0.0.1:{port}")
    process = start(replace(study, train=Fails, callbacks=[tracker]))
    process.run(process.claim())
    assert process.order == [(0, 1), (0, 2)]
    warnings = [one.getMessage() for one in caplog.records if one.name == "search.worker.callbacks"]
    assert len(warnings) == 3
    assert warnings[0].startswith("trial 0: MLflow.after_epoch: MlflowException: API request to ")
    assert "Connection refused" in warnings[0]
    assert not any("sesame" in line for line in warnings)
