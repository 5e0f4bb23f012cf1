"""Files that are written whole or not at all, and removed without a fuss; and where to."""

import hashlib
import os
import tempfile
from pathlib import Path

from search.errors import UserError


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write the file under another name and rename it; processes may do so at once.

    Raises:
        OSError: the folder is full or not writable; nothing of the file is left.
    """
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError:
        remove(scratch)
        raise


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


def folder_of_machine() -> Path:
    """Return a folder that all processes of this user on this machine have, and nobody else.

    Raises:
        UserError: another user has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"search-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: it belongs to another user; give a TMPDIR of your own")
    return folder


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made or written to; leave nothing behind.

    Raises:
        UserError: naming the option and the cause.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror}; name another folder") from error
