"""How many cores there are to use, and what is said where others use them too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from search.worker.cpu import Share, usable_cores

V1 = "5:memory:/job\n4:cpu,cpuacct:/slice/job\n1:name=systemd:/slice\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/pod/job\n", {"pod/job/cpu.max": "max 1000", "pod/cpu.max": "3000 1000"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000"}, 4),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "9000"}, 8),
        (V1, {"cpu,cpuacct/slice/cpu.cfs_quota_us": "27000",
              "cpu,cpuacct/slice/cpu.cfs_period_us": "9000"}, 3),
        (V1, {"memory/job/cpu.cfs_quota_us": "1", "memory/job/cpu.cfs_period_us": "1"}, 8),
    ],
)  # fmt: skip
def test_cores_are_those_of_the_affinity_within_the_quota_of_the_control_group(
    groups: str,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    made = {"proc/self/cgroup": groups}
    made |= {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def _told(*epochs: tuple[float, float]) -> list[str]:
    """Return what is said of epochs of so many seconds, of which so many were computed."""
    now = [0.0, 0.0]

    def trained() -> Iterator[int]:
        for number, (seconds, computed) in enumerate(epochs, start=1):
            now[0] += seconds
            now[1] += computed
            yield number

    said: list[str] = []
    share = Share(said.append, wall=lambda: now[0], cpu=lambda: now[1])
    numbers = []
    for number in share.watched(trained()):
        numbers.append(number)
        now[0] += 100  # between epochs: recording, which is no computation
    assert numbers == list(range(1, len(epochs) + 1))
    return said


def test_a_crowded_cpu_is_told_once_with_the_way_out() -> None:
    (line,) = _told((30, 7.5), (30, 3), (30, 29))
    assert line.startswith("training gets 25% of a CPU core, so epochs take 4 times as long")
    assert line.endswith("start fewer workers, or give them fewer --threads if they have several")
    assert len(_told(*[(1, 0.2)] * 29)) == 0
    assert len(_told(*[(1, 0.2)] * 90)) == 1
    assert len(_told((60, 0))) == 1
    assert _told((30, 16), (2, 0.1), (2, 0.1), (5, 5), (3, 3)) == []
