"""Workers on a real Ray cluster of several nodes, on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.database.database import Database
from search.worker import worker
from tests.support.callbacks import LINES
from tests.support.commands import Command, fresh_environment, until
from tests.support.databases import leased_pids, overview

QUICK = ("--study", "digits", "--images", "160", "--threads", "1", "--device", "cpu")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.xdist_group("test_ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


class Nodes:
    """A cluster whose nodes are processes of this machine: a head, and one that can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.address: str = self._cluster.address

    def add(self, **resources: Any) -> None:
        self._other = self._cluster.add_node(**resources)

    def lose(self) -> None:
        self._cluster.remove_node(self._other, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster of one node; a test that adds another loses it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", fresh_environment()["PYTHONPATH"])  # of the workers
        cluster = Nodes()
        yield cluster
        cluster.shutdown()


def _start(folder: Path, *options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "search.run", *QUICK, *map(str, options)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _until_they_run(folder: Path, n_workers: int) -> None:
    deadline = time.monotonic() + 110
    while len(leased_pids(folder)) < n_workers:
        assert time.monotonic() < deadline, "they did not begin"
        time.sleep(0.05)


def test_a_worker_that_dies_with_its_node_is_replaced(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add(num_cpus=1)
    asked = ("--no-variants", "--enqueue", "lr=0.01", "--enqueue", "lr=0.02")  # never pruned
    process = _start(
        tmp_path, "--ray", nodes.address, "--workers", "auto", *asked, "--epochs", 60, "--trials", 2
    )
    _until_they_run(tmp_path, 2)
    time.sleep(1)
    nodes.lose()
    shown, _ = process.communicate(timeout=250)
    assert process.returncode == 0, shown
    assert "On a Ray cluster of 1 machine, 2 workers (of each: CPUs 1, GPUs 0)" in shown
    assert re.search(r"^worker [12] is gone .*; another takes its place$", shown, re.MULTILINE)
    assert "Trials: 2 of 2 finished" in shown
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    trials = database.optuna.get_all_trials(1)
    database.close()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2


def test_a_worker_that_is_asked_to_end_gives_its_trial_to_another(
    nodes: Nodes, tmp_path: Path
) -> None:
    process = _start(
        tmp_path, "--ray", nodes.address, "--workers", 1, "--epochs", 60, "--trials", 1
    )
    _until_they_run(tmp_path, 1)
    [pid] = leased_pids(tmp_path)
    os.kill(pid, signal.SIGTERM)
    shown, _ = process.communicate(timeout=250)
    assert process.returncode == 0, shown
    assert "worker 1 was stopped by SIGTERM; another takes its place\n" in shown
    assert "Trials: 1 of 1 finished" in shown


def test_ctrl_c_stops_workers_and_those_that_wait_for_room(nodes: Nodes, tmp_path: Path) -> None:
    process = _start(tmp_path, "--ray", nodes.address, "--workers", 2, "--epochs", 500)
    for line in iter(process.stdout.readline, ""):  # type: ignore[union-attr]  # a pipe
        if "EPOCH" in line:
            break
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130, shown
    assert "Stopped by SIGINT; run the same command to resume." in shown
    assert leased_pids(tmp_path) == []


def test_its_workers_are_paused_resumed_and_stopped(
    nodes: Nodes, search: Command, tmp_path: Path
) -> None:
    def n_epochs() -> int:
        return overview(tmp_path, "digits").n_recorded

    def steer(name: str) -> None:
        done = search("search.__main__", name, "digits")
        assert (done.returncode, done.stderr) == (0, "")

    process = _start(tmp_path, "--ray", nodes.address, "--workers", 1, "--epochs", 500)
    _until_they_run(tmp_path, 1)
    steer("pause")
    until(lambda: leased_pids(tmp_path) == [])
    before = n_epochs()
    time.sleep(2 * worker.WAIT_SECONDS)
    assert n_epochs() == before
    steer("resume")
    until(lambda: n_epochs() > before)
    steer("stop")
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert "Stopped by `python -m search stop`; run the same command to resume." in shown
    assert leased_pids(tmp_path) == []


def test_the_callbacks_of_a_study_are_called_in_the_cluster(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LINES)
    done = subprocess.run(
        [sys.executable, "-m", "search.run", "--study", "mine.py", "--ray", nodes.address,
         "--trials", "4", "--workers", "1"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    database = Database(f"sqlite:///{tmp_path / 'search.db'}")
    recorded = [
        [number, epoch.number]
        for number in range(4)
        for epoch in database.epochs(calls[0][2].partition("-")[0], number)
    ]
    database.close()
    told = [[int(key.partition("-")[2]), what] for _, _, key, what in calls]
    assert sorted(one for one in told if isinstance(one[1], int)) == recorded


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--gpus-per-worker", 0.5), "--gpus-per-worker 0.5: no machine of the Ray cluster has"),
        (("--threads", 9), "--threads 9: no machine of the Ray cluster has more than 1"),
    ],
)
def test_resources_that_the_cluster_lacks_are_refused(
    nodes: Nodes, search: Command, options: tuple[object, ...], complaint: str, tmp_path: Path
) -> None:
    done = search("run", *QUICK, "--ray", nodes.address, "--workers", 2, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "search.db").exists()
