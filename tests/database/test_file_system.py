from pathlib import Path

import pytest

from search.database import file_system
from search.database import url as storage_url
from search.errors import UserError

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:40 / /disks rw,relatime shared:9 - nfs4 server:/export/home rw,vers=4.2
41 27 0:41 / /mnt/my\\040disk rw shared:10 master:1 - cifs //server/share rw
42 27 0:42 / /mnt/over rw - nfs server:/old rw
43 27 0:43 / /mnt/over rw - xfs /dev/vdb rw
44 40 0:44 / /disks/local rw - tmpfs tmpfs rw
45 27 0:45 /sub /scratch rw - lustre 10.0.0.1@tcp:/work rw,flock
46 27 0:46 / /remote rw - fuse.sshfs me@host: rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", None),
        ("/srv/work", None),
        ("/disks", "nfs4"),
        ("/disks/me/deep", "nfs4"),
        ("/diskless", None),
        ("/disksaw", None),
        ("/disks/local/me", None),
        ("/mnt/my disk/x", "cifs"),
        ("/mnt/over", None),
        ("/scratch/me", "lustre"),
        ("/remote", "fuse.sshfs"),
    ],
)
def test_the_innermost_and_latest_mount_tells_the_kind(folder: str, kind: str | None) -> None:
    assert file_system.network_kind(Path(folder), MOUNTS) == kind


def test_where_mounts_are_not_told_no_disk_is_taken_for_a_network_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_system.network_kind(tmp_path) is None
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "none")
    assert file_system.network_kind(tmp_path) is None


def test_sqlite_on_a_network_disk_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(f"1 0 0:1 / {tmp_path} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "mounts")
    with pytest.raises(UserError, match=r"network disk \(nfs4\).*PostgreSQL") as error:
        storage_url.check(f"sqlite:///{tmp_path / 'search.db'}")
    assert "\n" not in str(error.value)
