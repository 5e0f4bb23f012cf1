"""Files written whole: what becomes of whatever is at the path already."""

import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import files
from search.errors import UserError
from search.files import check_out, is_stream, write_atomic, write_out


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_umasks_mode_and_an_old_one_keeps_its_own(
    tmp_path: Path, umask: None
) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("old")
    old.chmod(0o604)
    for path in (new, old):
        write_atomic(path, b"content")
        assert path.read_bytes() == b"content"
    assert (_mode(new), _mode(old)) == (0o640, 0o604)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.parametrize("is_dangling", [True, False])
def test_through_a_symbolic_link_its_target_is_written(tmp_path: Path, is_dangling: bool) -> None:
    (tmp_path / "there").mkdir()
    target, link, second = tmp_path / "there" / "file", tmp_path / "link", tmp_path / "second"
    link.symlink_to("there/file")
    second.symlink_to(link)
    if not is_dangling:
        target.write_text("old")
    assert not write_out(second, b"new")
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_hard_links_other_name_keeps_the_old_file_whole(tmp_path: Path) -> None:
    path, other = tmp_path / "path", tmp_path / "other"
    path.write_text("old")
    other.hardlink_to(path)
    write_atomic(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    content = os.urandom(200_000)  # more than a pipe holds
    for path in (pipe, link):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda got=got: got.append(pipe.read_bytes()))
        reader.start()
        assert write_out(path, content)
        reader.join()
        assert got == [content]
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    main, terminal = os.openpty()
    try:
        device = Path(os.ttyname(terminal))
        link = tmp_path / "link"
        link.symlink_to(device)
        assert write_out(link, b"content")
        assert os.read(main, 100) == b"content"
        assert device.is_char_device()
    finally:
        os.close(main)
        os.close(terminal)


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_an_open_file_of_the_process_is_written_where_it_stands(tmp_path: Path, form: str) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as file:
        path = Path(form.format(file.fileno()))
        assert is_stream(path)
        assert write_out(path, b"content\n")
        file.write("after\n")
    assert log.read_text() == "before\ncontent\nafter\n"


def test_a_folder_called_fd_is_a_folder_like_others(tmp_path: Path) -> None:
    (tmp_path / "fd").mkdir()
    assert not write_out(tmp_path / "fd" / "1", b"content")
    assert (tmp_path / "fd" / "1").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("folder", "Is a directory"),
        ("missing/file", "No such file"),
        ("loop", "Too many levels"),
        ("file/file", "Not a directory"),
        ("n" * 256, "name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    for refuse in (check_out, lambda path: write_out(path, b"content")):
        with pytest.raises(UserError, match=f"--out .*{fault}.*; give another file"):
            refuse(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("猫" * 85)
    check_out(path)
    write_atomic(path, b"content")
    assert path.read_bytes() == b"content"


@pytest.mark.slow
def test_a_file_that_the_user_may_not_write_is_not_replaced() -> None:
    """Even if its folder would let him."""
    attempt = (
        "import os, sys, pathlib; from search.files import write_atomic\n"
        "if os.getuid() == 0: os.setgroups([]); os.setresgid(*[12345] * 3); "
        "os.setresuid(*[12345] * 3)\n"
        "write_atomic(pathlib.Path('another'), b'new')\n"
        "try: write_atomic(pathlib.Path('file'), b'new')\n"
        "except PermissionError: sys.exit(7)\n"
    )
    with tempfile.TemporaryDirectory() as name:  # pytest's own is closed to other users
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "file").write_text("old")
        (folder / "file").chmod(0o444)
        done = subprocess.run([sys.executable, "-c", attempt], cwd=folder, timeout=120)
        assert done.returncode == 7
        assert (folder / "file").read_text() == "old"
        assert sorted(one.name for one in folder.iterdir()) == ["another", "file"]


def test_nothing_is_left_of_a_writing_that_fails_or_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    for fault in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(descriptor: int, content: bytes, fault: BaseException = fault) -> None:
            os.write(descriptor, content[:3])
            raise fault

        monkeypatch.setattr(files, "write_all", fail)
        with pytest.raises(type(fault)):
            write_atomic(path, b"content")
        assert path.read_text() == "old"
        assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_writers_with_the_same_process_id_do_not_share_a_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of two containers may have it, over one folder."""
    path, whole = tmp_path / "file", files.write_all

    def meet_another(descriptor: int, content: bytes | memoryview) -> None:
        monkeypatch.setattr(files, "write_all", whole)
        write_atomic(path, b"the other's")
        whole(descriptor, content)

    monkeypatch.setattr(files, "write_all", meet_another)
    write_atomic(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "report", "reproduce", "dashboard"])
def test_a_deleted_current_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "gone").mkdir()
    study = [] if name == "dashboard" else ["--study", "digits"]
    line = ["bash", "-c", 'rmdir "$PWD" && exec "$@"', "bash"]
    done = subprocess.run(
        [*line, sys.executable, "-m", f"search.{name}", *study],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"python -m search.{name}: error: the current folder has been deleted; `cd` to another one"
        "\n"
    )
