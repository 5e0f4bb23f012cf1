"""Whether a process lives, asked of real ones."""

import dataclasses
import os
import subprocess
import sys

import psutil
import pytest

from search.database.liveness import ProcessIdentity


def _identity(pid: int) -> ProcessIdentity:
    started = psutil.Process(pid).create_time() - psutil.boot_time()
    return dataclasses.replace(ProcessIdentity.current(), pid=pid, started=started)


def test_this_process_lives_and_is_known_from_its_text() -> None:
    mine = ProcessIdentity.current()
    assert mine.pid == os.getpid()
    assert not mine.is_dead()
    read = ProcessIdentity.parse(str(mine))
    assert (read.host, read.pid) == (mine.host, mine.pid)
    assert not read.is_dead()


def test_a_process_is_dead_once_it_has_ended_waited_for_or_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = _identity(process.pid)
        assert not identity.is_dead()
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert identity.is_dead()
    assert identity.is_dead()


def test_another_process_of_the_same_id_is_another_one() -> None:
    before = dataclasses.replace(ProcessIdentity.current(), started=1.0)
    assert before.is_dead()


def test_of_another_host_or_container_nothing_is_known() -> None:
    elsewhere = dataclasses.replace(ProcessIdentity.current(), host="another", pid=2**22 + 1)
    assert not elsewhere.is_dead()
    assert dataclasses.replace(elsewhere, host=ProcessIdentity.current().host).is_dead()


def test_a_clock_that_is_set_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ProcessIdentity.current()
    boot, start = psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 7200.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: start + 7200.0)
    assert not mine.is_dead()


def test_a_process_that_cannot_be_looked_at_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hidden(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "status", hidden)  # as in a /proc that hides others
    assert not ProcessIdentity.current().is_dead()
