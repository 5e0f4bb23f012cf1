"""Files that are written whole or not at all, and removed without a fuss; and where to."""

import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.errors import UserError

_DESCRIPTORS = re.compile(r"/proc/(?P<process>\d+)(/task/\d+)?/fd|/dev/fd")
"""Folders whose entries are open files: of one process, and of the one that looks."""


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Give the file at `path` this content, or leave it as it was; processes may do so at once.

    A file keeps its mode, and a new one gets the umask's. A symbolic link stays, and its target is
    written. What `is_stream` is written to, and not replaced.

    Raises:
        OSError: the folder is full or not writable, or the file is not; nothing new is left.
    """
    if (descriptor := _descriptor(path)) is not None:
        write_all(descriptor, content)
    elif is_stream(path):
        with path.open("wb", buffering=0) as stream:
            write_all(stream.fileno(), content)
    else:
        _replace(Path(os.path.realpath(path)), content)


def check_out(path: Path) -> None:
    """Refuse what `write_out` would, before any work is done; leave nothing behind.

    Raises:
        UserError: it cannot be written.
    """
    with _blaming_out(path):
        if not is_stream(path):
            path = Path(os.path.realpath(path))
            _replaceable(path)
            with tempfile.TemporaryFile(dir=path.parent):
                pass


def write_out(path: Path, content: bytes) -> bool:
    """Write what `--out` names, as `write_whole` does; return whether it `is_stream`.

    Raises:
        UserError: it cannot be written.
    """
    with _blaming_out(path):
        has_reader = is_stream(path)
        write_whole(path, content)
    return has_reader


@contextmanager
def _blaming_out(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; name another file") from error


def _replace(path: Path, content: bytes | memoryview) -> None:
    there = _replaceable(path)
    # The process's id would not do: processes of several containers may have the same. Shortened,
    # since the name may be as long as names can be.
    scratch = path.with_name(f"{path.name[:55]}.{secrets.token_hex(8)}.tmp")
    try:
        with scratch.open("xb", buffering=0) as file:
            write_all(file.fileno(), content)
            if there is not None:
                with suppress(PermissionError):  # only root may give files away
                    os.fchown(file.fileno(), there.st_uid, there.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
        scratch.replace(path)
    except BaseException:
        remove(scratch)
        raise


def _replaceable(path: Path) -> os.stat_result | None:
    """Return the status of the file at `path`; None if there is none.

    Raises:
        OSError: it is no file, or one that may not be written.
    """
    there = _status(path)
    if there is not None:
        if not stat.S_ISREG(there.st_mode):
            fault = errno.EISDIR if stat.S_ISDIR(there.st_mode) else errno.EINVAL
            raise OSError(fault, os.strerror(fault))
        if not os.access(path, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return there


def is_stream(path: Path) -> bool:
    """Return whether `path` leads to a pipe, a terminal or the like, or to an open file of this
    process, as /dev/stdout does: somebody reads there what is written.

    Raises:
        OSError: that cannot be told.
    """
    there = _status(path)
    kinds = (stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISSOCK)
    return there is not None and (
        any(is_of(there.st_mode) for is_of in kinds) or _descriptor(path) is not None
    )


def _descriptor(path: Path) -> int | None:
    """Return which open file of this process `path` leads to; None if to none."""
    for _ in range(40):  # so many links the kernel follows
        folder = _DESCRIPTORS.fullmatch(os.path.realpath(path.parent))
        if folder is not None and path.name.isdecimal():
            return int(path.name) if folder["process"] in (None, str(os.getpid())) else None
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _status(path: Path) -> os.stat_result | None:
    """Return the status of what `path` leads to; None if there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of it, which a full disk or a pipe may take in parts."""
    left = memoryview(content).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def remove(path: Path) -> None:
    """Remove a file that nobody needs; one that cannot be removed costs only its space."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file in hexadecimal; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def temporary_folder() -> Path:
    """Return the folder for temporary files.

    Raises:
        UserError: this machine has none that can be written to.
    """
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise UserError(f"{error.strerror}; name one, as by `export TMPDIR=FOLDER`") from error


def folder_of_machine() -> Path:
    """Return a folder that all processes of this user on this machine have, and nobody else.

    Raises:
        UserError: another user has made it, or there is no place for it.
    """
    folder = temporary_folder() / f"search-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: it belongs to another user; give a TMPDIR of your own")
    return folder


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made or written to; leave nothing behind.

    Raises:
        UserError: naming the option and the cause.
    """
    try:
        paths = folder, *folder.absolute().parents
        # A link that leads nowhere is there too, and nothing can be made in its place.
        there = next(path for path in paths if path.is_symlink() or _status(path))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror}; name another folder") from error
