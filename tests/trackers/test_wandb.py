"""W&B's runs, offline: the files that `wandb sync` would send.

A run's file is a log of protocol buffers in LevelDB's format, for which the library has no reader:
https://github.com/google/leveldb/blob/main/doc/log_format.md.
"""

import gc
import json
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from search.errors import UserError
from search.study.study import Study
from search.trackers import WandB
from tests.support.callbacks import Fails
from tests.support.commands import Command, until
from tests.support.curves import loss, value
from tests.support.http import listening
from tests.support.process import Killed, Start, killed_at

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("test_wandb")]
HEADER_BYTES, PART_BYTES, BLOCK_BYTES = 7, 7, 2**15
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record."""


@pytest.fixture(scope="module", autouse=True)
def _service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep W&B's settings and caches in a folder of the tests, and end its process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp("wandb")))
        patch.delenv("WANDB_API_KEY", raising=False)
        yield
        wandb.teardown()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of processes that it does not await
            gc.collect()


def _records(path: Path) -> Iterator[Any]:
    content, at, found = path.read_bytes(), HEADER_BYTES, b""
    while at + PART_BYTES <= len(content):
        if (left := BLOCK_BYTES - at % BLOCK_BYTES) < PART_BYTES:
            at += left  # the end of a block is empty
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        found += content[at + PART_BYTES : at + PART_BYTES + size]
        at += PART_BYTES + size
        if kind in (WHOLE, LAST):
            record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(found)
            yield record
            found = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


class Logged:
    """What a run's file holds."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: dict[int, dict[str, float]] = {}
        """The metrics by step."""
        self.run: Any = None
        self.exit_code: int | None = None
        """None if it has not ended."""
        for record in _records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= _values(record.run.config.update)
            elif kind == "summary":
                self.summary |= _values(record.summary.update)
            elif kind == "history":
                row = _values(record.history.item)
                assert row["_step"] not in self.history
                self.history[row["_step"]] = {
                    name: of for name, of in row.items() if not name.startswith("_")
                }
            elif kind == "exit":
                self.exit_code = record.exit.exit_code


def _logged(folder: Path) -> list[Logged]:
    """Return the files by the trial's number, and those of a trial by their first epoch.

    They are written by another process, a little later.
    """
    paths = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    until(lambda: all(Logged(path).exit_code is not None for path in paths))
    return sorted(map(Logged, paths), key=lambda of: (of.run.run_id, min(of.history)))


def test_a_run_for_each_trial_has_all_metrics_by_epoch_and_its_end(
    start: Start, study: Study, tmp_path: Path
) -> None:
    tracker = WandB("curves of mine", entity="team", mode="offline", folder=tmp_path)
    process = start(replace(study, callbacks=[tracker], trials=2))
    process.work()
    promoted, fixed = process.trials[1], process.trials[0]
    found = _logged(tmp_path)
    assert [of.run.run_id for of in found] == [
        f"{process.ref.key}-{number}" for number in (0, 1, 1, 1)
    ]
    assert [list(of.history) for of in found] == [
        list(range(1, 11)),
        [1],
        [2, 3, 4],
        [*range(5, 11)],
    ]
    for of, trial in zip(found, (fixed, promoted, promoted, promoted), strict=True):
        x = trial.params["x"]
        assert of.history == {n: {"value": value(x, n), "loss": loss(x, n)} for n in of.history}
        assert of.config.items() >= {"x": x, "seed": study.trial_seed(trial)}.items()
        run = of.run
        assert (run.project, run.entity, run.run_group) == ("curves of mine", "team", "curves")
        assert run.display_name == ("0 half" if trial is fixed else "1")
        assert of.summary["search/value"] == value(x, max(of.history))
        assert of.exit_code == 0
    assert [of.summary["search/state"] for of in found] == [
        "complete",
        "pruned",
        "pruned",
        "complete",
    ]
    assert "waits to be promoted" in found[1].summary["search/reason"]


def test_a_failed_trial_says_so(start: Start, study: Study, tmp_path: Path) -> None:
    tracker = WandB(mode="offline", folder=tmp_path)
    process = start(replace(study, train=Fails, callbacks=[tracker]))
    process.run(process.claim())
    (found,) = _logged(tmp_path)
    assert (found.summary["search/state"], found.exit_code) == ("failed", 1)
    assert found.summary["search/reason"].startswith("ArithmeticError: too hot")
    assert list(found.history) == [1, 2]


def test_a_training_may_have_a_run_of_its_own(start: Start, study: Study, tmp_path: Path) -> None:
    tracker = WandB(mode="offline", folder=tmp_path)
    with wandb.init(
        mode="offline", dir=tmp_path, id="mine", settings=wandb.Settings(silent=True)
    ) as mine:
        process = start(replace(study, train=Fails, callbacks=[tracker]))
        process.run(process.claim())
        mine.log({"mine": 1.0})
    assert {found.run.run_id: list(found.history) for found in _logged(tmp_path)} == {
        "mine": [0],
        f"{process.ref.key}-0": [1, 2],
    }


def test_a_stopped_trial_goes_on_in_another_worker_of_the_process(
    start: Start, study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for calls in (3, 4):
        tracker = WandB(mode="offline", folder=tmp_path)
        process = start(replace(study, callbacks=[tracker]))
        with pytest.raises(Killed):
            process.run(process.claim(), killed_at(calls))
        process.close()
    first, second = _logged(tmp_path)
    assert first.run.run_id == second.run.run_id
    assert (list(first.history), list(second.history)) == ([1, 2], [3, 4, 5])


STUDY = """
from dataclasses import replace
from search.study import Callback
from search.trackers import WandB
from tests.support.curves import Choices, study

class Stops(Callback):
    def after_epoch(self, trial, epoch):
        if epoch.number == 3:
            import os, pathlib, signal
            if not pathlib.Path("stopped").exists():
                pathlib.Path("stopped").touch()
                os.kill(os.getpid(), signal.SIGKILL)

callbacks = [WandB(mode="offline"), Stops()]
study = replace(study, callbacks=callbacks, variants={"half": Choices(x=0.5)}, trials=1)
"""


def test_a_killed_trial_goes_on_in_a_run_of_the_same_id(
    search: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of this process
    (tmp_path / "mine.py").write_text(STUDY)
    assert search("run", "--study", "mine.py").returncode == -signal.SIGKILL
    done = search("run", "--study", "mine.py")
    assert (done.returncode, done.stderr) == (0, "")
    # W&B writes to a file every 15 seconds: the first has nothing yet.
    killed, heir = sorted(
        (tmp_path / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_size
    )
    assert killed.name == heir.name
    until(lambda: Logged(heir).exit_code == 0)
    assert list(Logged(heir).history) == [*range(4, 11)]


class Viewer(BaseHTTPRequestHandler):
    """Answers as W&B's server does to somebody whom it knows."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": {"viewer": {"username": "me", "teams": {"edges": []}}}}')

    def log_message(self, *arguments: object) -> None: ...


def test_without_a_key_a_search_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="W&B has no API key; run `wandb login`, set WANDB_API_KEY"):
        WandB().setup()
    WandB(mode="offline").setup()
    with listening(Viewer) as url:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", url.rstrip("/"))
        wandb.teardown()  # which has read the environment
        WandB().setup()
        wandb.teardown()
