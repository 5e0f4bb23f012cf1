"""Files that are written whole or not at all, and removed without a fuss."""

import os
from pathlib import Path


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
