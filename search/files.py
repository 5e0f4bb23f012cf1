"""Atomic writes, removal of files without errors, and the folder for temporary files."""

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
"""Folders whose entries are open files: those of one process, and of the reading process."""


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Replace the content of the file at `path`, or leave it unchanged, atomically.

    Several processes may write at once. An existing file keeps its mode; a new one gets the mode of
    the umask. Symbolic links are followed. A stream, see `is_stream`, is written to, not replaced.

    Raises:
        OSError: the file or its folder is not writable, or the disk is full. No scratch file is
            left.
    """
    if (descriptor := _descriptor(path)) is not None:
        write_all(descriptor, content)
    elif is_stream(path):
        with path.open("wb", buffering=0) as stream:
            write_all(stream.fileno(), content)
    else:
        _replace(Path(os.path.realpath(path)), content)


def check_out(path: Path) -> None:
    """Check, before any work is done, that `write_out` can write the file; leave nothing behind.

    Raises:
        UserError: the file cannot be written.
    """
    with _blaming_out(path):
        if not is_stream(path):
            path = Path(os.path.realpath(path))
            _replaceable(path)
            with tempfile.TemporaryFile(dir=path.parent):
                pass


def encoded(text: str) -> bytes:
    """Return text as UTF-8, with escapes for what is none in the texts of other programs."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def write_out(path: Path, content: bytes) -> bool:
    """Write the file of `--out` with `write_atomic`; return whether it `is_stream`.

    Raises:
        UserError: the file cannot be written.
    """
    with _blaming_out(path):
        has_reader = is_stream(path)
        write_atomic(path, content)
    return has_reader


@contextmanager
def _blaming_out(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; give another file") from error


def _replace(path: Path, content: bytes | memoryview) -> None:
    there = _replaceable(path)
    # Not the process id: processes in several containers may share it. The name is shortened,
    # since it may have the maximum length already.
    scratch = path.with_name(f"{path.name[:55]}.{secrets.token_hex(8)}.tmp")
    try:
        with scratch.open("xb", buffering=0) as file:
            write_all(file.fileno(), content)
            if there is not None:
                with suppress(PermissionError):  # only root may change the owner
                    os.fchown(file.fileno(), there.st_uid, there.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
        scratch.replace(path)
    except BaseException:
        remove(scratch)
        raise


def _replaceable(path: Path) -> os.stat_result | None:
    """Return the status of the file at `path`; None if there is no file.

    Raises:
        OSError: it is not a regular file, or not writable.
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
    """Return whether `path` is a pipe, a terminal or another device that has a reader, or an open
    file of this process, such as /dev/stdout.

    Raises:
        OSError: the status of the path cannot be read.
    """
    there = _status(path)
    kinds = (stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISSOCK)
    return there is not None and (
        any(is_of(there.st_mode) for is_of in kinds) or _descriptor(path) is not None
    )


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that `path` resolves to; None if there is none."""
    for _ in range(40):  # as many links as the kernel follows
        folder = _DESCRIPTORS.fullmatch(os.path.realpath(path.parent))
        if folder is not None and path.name.isdecimal():
            return int(path.name) if folder["process"] in (None, str(os.getpid())) else None
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _status(path: Path) -> os.stat_result | None:
    """Return the status of `path`, links followed; None if it does not exist."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of `content`, also where a single write takes only a part of it."""
    left = memoryview(content).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def remove(path: Path) -> None:
    """Remove an unneeded file; one that cannot be removed is left, which costs only space."""
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
        UserError: this machine has no writable one.
    """
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise UserError(f"{error.strerror}; name one, as with `export TMPDIR=FOLDER`") from error


def private_temp_folder() -> Path:
    """Return a folder shared by this user's processes on this machine, and closed to other users.

    Raises:
        UserError: it belongs to another user, or there is no folder for temporary files.
    """
    folder = temporary_folder() / f"search-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: it belongs to another user; set TMPDIR to another folder")
    return folder


def check_folder(folder: Path, option: str) -> None:
    """Check that a folder can be created and written to; leave no files behind.

    Raises:
        UserError: the folder cannot be made or written to; the message names the option and the
            cause.
    """
    try:
        paths = folder, *folder.absolute().parents
        # A dangling link counts as existing: no folder can be made in its place.
        there = next(path for path in paths if path.is_symlink() or _status(path))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror}; give another folder") from error
