"""How devices are dealt out, and what becomes of a search whose workers fail or die."""

import pytest
import torch

from search.errors import UserError
from search.launch.supervisor import DEATHS, End, Fate, KeepsDying, Place, deal, supervise
from search.worker.stop import Stop


def test_each_worker_has_one_thread_and_auto_a_worker_for_each_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.launch.supervisor.usable_cores", lambda: 6)
    assert deal("cpu", 2, threads=None) == [Place(device="cpu", threads=1)] * 2
    assert deal("cpu", 8, threads=None) == [Place(device="cpu", threads=1)] * 8
    assert deal("cpu", 2, threads=5) == [Place(device="cpu", threads=5)] * 2
    assert deal("cpu", None, threads=None) == [Place(device="cpu", threads=1)] * 6
    assert deal("cpu", None, threads=4) == [Place(device="cpu", threads=4)]
    with pytest.raises(
        UserError, match=r"--threads 7: this process may use 6 CPU cores, .* 6 or l"
    ):
        deal("cpu", 1, threads=7)


def test_cuda_devices_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: this machine has no such device"):
        deal("cuda", 2, threads=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="--device cuda:2: this machine has 2, counted from cuda:0"):
        deal("cuda:2", 1, threads=None)
    assert [place.device for place in deal("auto", 3, threads=None)] == [
        "cuda:0", "cuda:1", "cuda:0",
    ]  # fmt: skip
    assert [place.device for place in deal("cuda:1", 2, threads=None)] == ["cuda:1", "cuda:1"]
    assert [place.device for place in deal("auto", None, threads=None)] == ["cuda:0", "cuda:1"]
    assert [place.device for place in deal("cuda:1", None, threads=None)] == ["cuda:1"]


class Canned:
    """A worker that says and does what it was made with."""

    def __init__(self, *says: str, end: End | None) -> None:
        self.says, self.ends, self.asked = list(says), end, False

    def told(self) -> list[str]:
        says, self.says = self.says, []
        return says

    def end(self) -> End | None:
        return End(fate=Fate.DONE) if self.asked else self.ends

    def ask_to_stop(self) -> None:
        self.asked = True


DONE, FAILED = End(fate=Fate.DONE), End(fate=Fate.FAILED)


KILLED = End(fate=Fate.DIED, why="was ended by SIGKILL")


def test_one_that_dies_is_replaced_and_one_that_fails_is_not() -> None:
    first = iter([Canned("a", end=KILLED), Canned("b", end=DONE)])
    second = iter([Canned("c", end=FAILED)])
    said: list[str] = []
    failed = supervise(
        [lambda: next(first), lambda: next(second)], Stop(), progress=lambda: 0, say=said.append
    )
    assert failed == 1
    assert said == [
        "worker 1: a",
        "worker 1 was ended by SIGKILL; another takes its place",
        "worker 2: c",
        "worker 1: b",
    ]


def test_workers_that_only_die_end_the_search_and_those_that_get_on_do_not() -> None:
    endless = Canned(end=None)
    died: list[Canned] = []

    def dying() -> Canned:
        died.append(Canned(end=KILLED))
        return died[-1]

    with pytest.raises(KeepsDying, match=f"{2 * DEATHS} times .* SIGKILL"):
        supervise([dying, lambda: endless], Stop(), progress=lambda: 7, say=print)
    assert (len(died), endless.asked) == (2 * DEATHS, True)

    epochs = iter(range(1, 100))
    last = iter([*[KILLED] * 9, DONE])
    assert supervise(
        [lambda: Canned(end=next(last))], Stop(), progress=lambda: next(epochs), say=print
    ) == 0  # fmt: skip
