"""An error that nobody foresaw stops the worker and leaves its trial to one more; the second time
the trial is ended as failed. Running out of memory ends it so at once.
"""

import dataclasses
import re
import threading
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.study.study import Study
from search.study.trial_attributes import REASON, TRACEBACK
from tests.support.commands import Command
from tests.support.process import Start, Workers


def test_an_error_leaves_the_trial_to_one_more_worker(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *arguments: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    with monkeypatch.context() as patch:
        patch.setattr("search.worker.trial_files.TrialFiles.save", broken)
        for state in (TrialState.RUNNING, TrialState.FAIL):
            process = start()
            with pytest.raises(ZeroDivisionError):
                process.work()
            assert process.trials[0].state == state
    assert process.trials[0].user_attrs[REASON] == "ZeroDivisionError: division by zero"
    start().claim()
    assert process.trials[2].user_attrs == {"variant": "question-1"}  # once more


def test_a_trial_that_stops_two_workers_is_ended_as_failed(
    workers: Workers, joined: optuna.Study
) -> None:
    for _ in range(2):
        claims = workers.new()
        claim = workers.claim(claims)
        assert claim.number == 0
        assert joined.trials[0].state == TrialState.RUNNING
        claims.crash(claim, ZeroDivisionError("division by zero"))
    trial = joined.trials[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs[REASON] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in trial.user_attrs[TRACEBACK]
    assert workers.end(workers.new()) == 1


def test_a_worker_without_memory_for_a_thread_does_not_wait_for_it(
    start: Start, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(thread: threading.Thread) -> None:
        raise MemoryError  # as it begins, before it has told that it has

    process = start(dataclasses.replace(study, trials=1))
    monkeypatch.setattr(threading.Thread, "_bootstrap", die)
    process.work()
    assert process.trials[0].state == TrialState.COMPLETE


def test_an_error_in_every_worker_ends_the_search(search: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from optuna.samplers import RandomSampler\n"
        "from studies.digits import study\n"
        "def faulty(seed):\n"
        "    if seed: raise ZeroDivisionError('mine')\n"
        "    return RandomSampler(seed)\n"
        "study = replace(study, name='mine', variants={}, sampler=faulty)\n"
    )
    done = search("run", "--study", "mine.py", "--workers", 2, "--threads", 1)
    assert done.returncode == 1
    assert re.search(r"^worker [12]: Traceback", done.stdout, re.MULTILINE)
    assert "ZeroDivisionError: mine" in done.stdout
