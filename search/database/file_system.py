"""The file system that a path is on, as Linux tells it."""

import re
from collections.abc import Iterator
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs",
    "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""Those whose files another machine, or the host of a virtual one, can change at the same time."""


def network_kind(folder: Path, mounts: str | None = None) -> str | None:
    """Return the kind of the network file system that `folder` is on; None if it is on none.

    `mounts` is in the form of `MOUNTS`; None stands for its content, and no system without that
    file is known to have a network disk.
    """
    found, kind = -1, ""
    for point, its_kind in _mounted(mounts):
        # A later mount hides an earlier one of the same place.
        if folder.resolve().is_relative_to(point) and len(point.parts) >= found:
            found, kind = len(point.parts), its_kind
    return kind if kind in NETWORK else None


def is_mount_point(path: Path, mounts: str | None = None) -> bool:
    """Return whether something is mounted at `path` itself; `mounts` is as for `network_kind`."""
    return any(point == path for point, _ in _mounted(mounts))


def _mounted(mounts: str | None) -> Iterator[tuple[Path, str]]:
    """Yield where something is mounted, and the kind of its file system, in order.

    Form: https://man7.org/linux/man-pages/man5/proc.5.html.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(errors="surrogateescape") if MOUNTS.exists() else ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        yield Path(point), after.split()[0]
