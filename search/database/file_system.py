"""The file system of a path, as Linux reports it."""

import re
from collections.abc import Iterator
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs",
    "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""File systems whose files another machine, or a virtual machine's host, can also change."""


def network_kind(folder: Path, mounts: str | None = None) -> str | None:
    """Return the kind of network file system that `folder` is on; None for a local one.

    `mounts` is text in the format of `MOUNTS`, by default the content of that file. Systems without
    the file are treated as local.
    """
    found, kind = -1, ""
    for point, its_kind in _mounted(mounts):
        # A later mount hides an earlier one of the same place.
        if folder.resolve().is_relative_to(point) and len(point.parts) >= found:
            found, kind = len(point.parts), its_kind
    return kind if kind in NETWORK else None


def is_mount_point(path: Path, mounts: str | None = None) -> bool:
    """Return whether `path` itself is a mount point; `mounts` is as for `network_kind`."""
    return any(point == path for point, _ in _mounted(mounts))


def _mounted(mounts: str | None) -> Iterator[tuple[Path, str]]:
    """Yield mount points and the kinds of their file systems, in order.

    Format: https://man7.org/linux/man-pages/man5/proc.5.html.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(errors="surrogateescape") if MOUNTS.exists() else ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        yield Path(point), after.split()[0]
