"""A folder and a bucket are one to the search: what holds for both, and how each is refused."""

import hashlib
import io
import re
import sys
from pathlib import Path

import pytest
from moto.core.authorization import enable_iam_authentication
from optuna.artifacts.exceptions import ArtifactNotFound

from search.artifacts.files_of_study import StudyFiles
from search.artifacts.store import Artifacts, from_any_folder, open_artifacts
from search.errors import UserError
from search.files import private_temp_folder
from tests.support.s3 import SECRET

CONTENT = bytes(range(256)) * 1000


def test_a_file_comes_back_as_it_was_and_is_gone_when_removed(artifacts: Artifacts) -> None:
    assert artifacts.read("0a-1-ff") is None
    artifacts.write("0a-1-ff", CONTENT)
    assert artifacts.read("0a-1-ff") == CONTENT
    artifacts.write("0a-1-ff", b"")
    assert artifacts.read("0a-1-ff") == b""
    for _ in range(2):
        artifacts.remove("0a-1-ff")
        assert artifacts.read("0a-1-ff") is None


def test_ids_are_listed_by_what_they_begin_with(artifacts: Artifacts) -> None:
    assert artifacts.ids("0a-") == []
    for artifact_id in ("0a-1-ff", "0a-12-ff", "0b-1-ff"):
        artifacts.write(artifact_id, CONTENT)
    assert sorted(artifacts.ids("0a-")) == ["0a-1-ff", "0a-12-ff"]
    assert artifacts.ids("0a-1-") == ["0a-1-ff"]


class Interrupted(io.BytesIO):
    """An upload that ends in its middle."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() or size in (-1, None):
            raise OSError("cut off")
        return super().read(size)


def test_optunas_store_has_the_same_files(artifacts: Artifacts) -> None:
    artifacts.write("0a-1-ff", CONTENT)
    with artifacts.store.open_reader("0a-1-ff") as reader:
        assert reader.read() == CONTENT
        assert reader.seekable()  # else a slow client of the dashboard keeps one of its threads
    artifacts.store.write("0a-2-ff", io.BytesIO(b"uploaded"))
    assert artifacts.read("0a-2-ff") == b"uploaded"
    with pytest.raises(OSError, match="cut off"):
        artifacts.store.write("0a-3-ff", Interrupted(CONTENT))
    assert sorted(artifacts.ids("")) == ["0a-1-ff", "0a-2-ff"]
    artifacts.store.remove("0a-1-ff")
    with pytest.raises(ArtifactNotFound):
        artifacts.store.open_reader("0a-1-ff")


def test_a_fetched_file_is_on_this_machine_and_of_its_sum(artifacts: Artifacts) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert not artifacts.fetch("0a-1-ff", sha256).exists()
    artifacts.write("0a-1-ff", CONTENT)
    path = artifacts.fetch("0a-1-ff", sha256)
    assert path.read_bytes() == CONTENT
    path.write_bytes(b"damaged")
    artifacts.write("0a-1-ff", CONTENT)
    assert artifacts.fetch("0a-1-ff", sha256).read_bytes() == CONTENT


def test_a_check_leaves_nothing_behind(artifacts: Artifacts, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    artifacts.check()
    assert artifacts.ids("") == []
    assert sorted(tmp_path.rglob("*")) == before


def test_only_files_of_the_study_that_nobody_needs_are_unneeded(artifacts: Artifacts) -> None:
    store, other = StudyFiles(artifacts, "0a"), StudyFiles(artifacts, "0b")
    for one in (store, other):
        for number in (3, 4, 33):
            one.write(number, CONTENT)
            one.write(number, CONTENT, epoch=1)
    artifacts.write("0a-4-1-ff.123.tmp", b"")  # of a worker that was killed
    artifacts.write("0a-x", b"")  # nobody's
    weights = store.artifact_id(33, hashlib.sha256(CONTENT).hexdigest())
    gone = store.surplus(store.ids(), kept={weights}, running={3})
    sums = [f"{one}-{hashlib.sha256(CONTENT).hexdigest()[:16]}" for one in ("4", "4-1", "33-1")]
    assert sorted(gone) == sorted(["0a-4-1-ff.123.tmp", *(f"0a-{one}" for one in sums)])
    store.remove(gone)
    assert len(store.ids()) == 4
    assert len(other.ids()) == 6


def test_ids_are_such_as_the_dashboard_takes(artifacts: Artifacts) -> None:
    store = StudyFiles(artifacts, "0123abcd")
    store.write(17, CONTENT)
    store.write(17, CONTENT, epoch=10)
    assert all(re.fullmatch("[0-9a-f-]+", artifact_id) for artifact_id in store.ids())


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    artifacts = open_artifacts(str(tmp_path))
    (tmp_path / "files").touch()  # a file where the folder is to be: not even root can write there
    with pytest.raises(OSError, match="File exists"):
        artifacts.write("0a-1-ff", CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


@pytest.mark.parametrize(
    "where",
    [
        f"s3://tests:{SECRET}@bucket/prefix",
        f"s3://bucket/prefix?secret={SECRET}",
        f"gs://{SECRET}",
        "s3:/bucket",  # as `Path` leaves it
        "s3://",
        "s3://Bucket",
        "s3://bucket/a b",
    ],
)
def test_a_place_that_is_none_is_refused_without_its_secret(where: str) -> None:
    with pytest.raises(UserError, match=r"^--artifacts: .*s3://BUCKET/PREFIX") as refused:
        open_artifacts(where)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


def _refusal(where: str) -> str:
    with pytest.raises(UserError) as refused:
        open_artifacts(where).check()
    message = str(refused.value)
    assert "\n" not in message
    assert SECRET not in message
    return message


def test_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    complaint = _refusal("s3://other-bucket/x")
    assert complaint.startswith("--artifacts s3://other-bucket/x: The specified bucket does not ex")
    assert "(NoSuchBucket); name a bucket in which objects may be listed, written" in complaint


def test_a_bucket_that_may_not_be_used_is_refused(bucket: str) -> None:
    with enable_iam_authentication():  # and it knows nobody
        assert "(InvalidAccessKeyId); name a bucket" in _refusal(bucket)
    open_artifacts(bucket).check()


def test_a_server_that_is_away_is_named_without_a_password(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:9")
    cause = 'Could not connect to the endpoint URL: "http://***@127.0.0.1:9/'
    assert cause in _refusal(bucket)
    with pytest.raises(OSError, match=re.escape(cause)) as error:
        open_artifacts(bucket).store.open_reader("0a-1-ff")
    assert SECRET not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", SECRET)
    assert "the endpoint is no URL" in _refusal(bucket)


def test_without_credentials_a_bucket_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "Unable to locate credentials" in _refusal(bucket)


def test_without_boto3_a_bucket_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "search.artifacts.s3", None)
    assert "it needs the extra `s3`" in _refusal("s3://bucket")


def test_a_folder_for_copies_that_is_another_users_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = private_temp_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    other = folder.stat().st_uid + 1
    folder.rename(folder.with_name(f"search-{other}"))
    monkeypatch.setattr("os.getuid", lambda: other)
    with pytest.raises(UserError, match="belongs to another user; set TMPDIR to another folder"):
        private_temp_folder()


def test_a_place_is_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_any_folder("artifacts") == str(tmp_path / "artifacts")
    assert from_any_folder("s3://bucket/x") == "s3://bucket/x"


def test_a_folder_in_whose_place_is_a_file_or_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "files").write_text("somebody else's")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("taken", "link"):
        with pytest.raises(UserError, match=f"--artifacts {tmp_path}/{name}.*; give another"):
            open_artifacts(str(tmp_path / name)).check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "taken"]
