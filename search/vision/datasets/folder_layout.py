"""Find the pictures below a folder, with their classes and splits; ambiguous layouts are errors.

The layout is that of `torchvision.datasets.ImageFolder`: `CLASS/*.png`, or `SPLIT/CLASS/*.png`. A
folder is a split if it has the name of a split and contains folders of pictures. Without splits,
the test set is a fifth of each class: the pictures whose names have the lowest SHA-256. Pictures
are sorted by this SHA-256 too, so that the first and the last pictures are of all classes.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from search.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""`torchvision.datasets.folder.IMG_EXTENSIONS`; other files are ignored."""
LAYOUT = "CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png"
SPLITS = {
    "train": "training",
    "training": "training",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""The set by the folder's name, case-insensitive."""
FOREIGN = {
    "__macosx",  # macOS, in ZIP files
    "@eadir", "#recycle", "#snapshot",  # Synology
    "@__thumb", "@recycle",  # QNAP
    "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini",  # Windows
    "lost+found",  # ext4
}  # fmt: skip
"""Files of other tools, in lower case; they are ignored, like all names that begin with a dot."""

ALIKE = " only by letter case or Unicode form"

Sample = tuple[Path, int]
"""A picture and the label of its class."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The pictures of a folder, in the order of the dataset."""

    folder: Path
    classes: list[str]
    train: list[Sample]
    test: list[Sample]
    remarks: list[str]
    """Lines about ignored files and other surprises."""

    @classmethod
    def of(cls, folder: Path, *, ours: Path) -> "Layout":
        """Return the layout of `folder`, ignoring the service's folder `ours`.

        Raises:
            UserError: the layout is invalid or ambiguous.
            OSError: a folder cannot be read.
        """
        search = _Search(folder, ours)
        if splits := search.splits():
            train_folder, test_folder = splits
            train, test = search.by_class(train_folder), search.by_class(test_folder)
            if unknown := test.keys() - train.keys():
                name = min(unknown)
                alike = [
                    f"; {other!r} differs{ALIKE}" for other in train if _key(other) == _key(name)
                ]
                raise UserError(
                    f"{test_folder / name}: {train_folder} has no class of this name"
                    f"{''.join(alike)}; use the same class names in both"
                )
        else:
            train_folder = test_folder = folder
            train, test = _divided(search.by_class(folder), folder)
        if len(train) < 2:
            raise UserError(
                f"{folder}: folders of at least two classes are needed, not {len(train)}; "
                f"the layout is {LAYOUT}"
            )
        classes = list(train)
        return cls(
            folder=folder,
            classes=classes,
            train=_samples(train, classes, train_folder),
            test=_samples(test, classes, test_folder),
            remarks=[*search.remarks(), *_remarks(train, test)],
        )


class _Search:
    """Finds the pictures of a folder, and records the files that it ignores."""

    def __init__(self, folder: Path, ours: Path) -> None:
        self._folder = folder
        self._ours = ours.resolve()
        self._loose: list[Path] = []
        self._deeper: list[Path] = []
        self._others: Counter[str] = Counter()
        self._remarks: list[str] = []

    def remarks(self) -> list[str]:
        found = list(self._remarks)
        if self._loose:
            found.append(
                f"{len(self._loose)} pictures are ignored, since they are not in the folder of a "
                f"class, such as {self._loose[0]}"
            )
        if self._deeper:
            found.append(
                f"{len(self._deeper)} pictures are in subfolders of a class, and count as members "
                f"of that class, such as {self._deeper[0]}"
            )
        if self._others:
            endings = ", ".join(sorted(self._others))
            found.append(
                f"{self._others.total()} files are ignored because of their extensions: {endings}"
            )
        return found

    def splits(self) -> tuple[Path, Path] | None:
        """Return the folders of the training and the test set; None if the folders are classes.

        Raises:
            UserError: only some folders are splits, or a set is missing or exists twice.
        """
        folders = self._folders(self._folder)
        named = [path for path in folders if _set(path)]
        splits = [path for path in named if any(map(_has_pictures, self._folders(path)))]
        flat = [path for path in named if path not in splits]
        if not splits:
            # A class may be called train, as in a dataset of vehicles; no other name is ambiguous.
            odd = [path for path in flat if path.name.casefold() != "train"] or flat[1:]
            if odd:
                raise UserError(
                    f"{odd[0]}: it has the name of a split, but no folders of pictures; "
                    "add one for each class, or rename it if it is a class"
                )
            return None
        for path in folders:
            if path in flat or (path not in named and _has_pictures(path)):
                raise UserError(
                    f"{path}: it is not a split, but {splits[0]} next to it contains folders of "
                    "pictures, like a split; move or rename one of them"
                )
        sets: dict[str, Path] = {}
        for path in splits:
            there = sets.setdefault(_set(path), path)
            if there != path:
                raise UserError(
                    f"{path}: {there} is already the {_set(path)} set; remove one of them"
                )
        return self._train_and_test(sets)

    def _train_and_test(self, sets: Mapping[str, Path]) -> tuple[Path, Path]:
        train, validation = sets.get("training"), sets.get("validation")
        test = sets.get("test") or validation
        if train is None:
            there = ", ".join(path.name for path in sets.values())
            raise UserError(f"{self._folder}: it has {there}, but no train; add it")
        if test is None:
            raise UserError(
                f"{train}: there is no test or val next to it; add one, or give {train} as the "
                "folder, to use a fifth of each class as the test set"
            )
        if validation == test:
            self._remarks.append(f"{validation} is used as the test set")
        elif validation:
            self._remarks.append(f"{validation} is ignored; the test set is {test}")
        return train, test

    def by_class(self, folder: Path) -> dict[str, list[Path]]:
        """Return the pictures of each class, in the order of their names' SHA-256.

        Raises:
            UserError: a class has no pictures, or contains splits.
        """
        self._loose += _Entries.of(folder).pictures
        found = {}
        for place in self._folders(folder):
            inside = {_set(path): path for path in self._folders(place) if _set(path)}
            if len(inside) > 1:
                raise UserError(
                    f"{min(inside.values())}: a split is inside a class; put the classes into the "
                    "splits, as in train/CLASS/*.png"
                )
            paths: list[Path] = []
            for entries in _below(place):
                paths += entries.pictures
                self._others.update(path.suffix.lower() or path.name for path in entries.others)
            if not paths:
                raise UserError(
                    f"{place}: this class has no pictures ({', '.join(ENDINGS)}); add some, or "
                    "remove the folder"
                )
            self._deeper += [path for path in paths if path.parent != place]
            found[place.name] = sorted(paths, key=lambda path: _sum(path, folder))
        return found

    def _folders(self, folder: Path) -> list[Path]:
        return [path for path in _Entries.of(folder).folders if path.resolve() != self._ours]


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """The entries of a folder, except files of other tools; each list is sorted by name."""

    folders: list[Path]
    pictures: list[Path]
    others: list[Path]

    @classmethod
    def of(cls, folder: Path) -> "_Entries":
        """Read the folder, following links.

        Raises:
            UserError: an entry has the name of a picture, but is not a file.
        """
        found = cls(folders=[], pictures=[], others=[])
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if entry.name[0] == "." or entry.name.casefold() in FOREIGN:
                    continue
                if entry.is_dir():
                    found.folders.append(path)
                elif path.suffix.lower() not in ENDINGS:
                    found.others.append(path)
                elif entry.is_file():
                    found.pictures.append(path)
                else:
                    raise UserError(f"{path}: not a file, or a broken link; repair or remove it")
        return found


def _set(folder: Path) -> str:
    """Return the set that a folder's name denotes; empty if it denotes none."""
    return SPLITS.get(folder.name.casefold(), "")


def _has_pictures(place: Path) -> bool:
    return any(entries.pictures for entries in _below(place))


def _below(place: Path) -> Iterator[_Entries]:
    """Yield the entries of a folder and its subfolders, following links.

    Folders that were visited before are skipped, and so are the parents of `place`, which would
    lead to other classes.
    """
    above = {*place.absolute().parents, *place.resolve().parents}
    seen = set(map(_identity, above))
    places = [place]
    while places:
        here = places.pop()
        identity = _identity(here)
        if identity not in seen:
            seen.add(identity)
            entries = _Entries.of(here)
            yield entries
            places += reversed(entries.folders)


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _divided(
    by_class: Mapping[str, list[Path]], folder: Path
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Divide the pictures of each class: a fifth for the test set, the rest for the training set.

    Raises:
        UserError: a class has only one picture.
    """
    train, test = {}, {}
    for name, paths in by_class.items():
        if len(paths) == 1:
            raise UserError(
                f"{folder / name}: this class has only one picture, but at least one each is "
                "needed for training and testing; add some"
            )
        n_test = max(len(paths) // 5, 1)
        train[name], test[name] = paths[n_test:], paths[:n_test]
    return train, test


def _remarks(train: Mapping[str, list[Path]], test: Mapping[str, list[Path]]) -> Iterator[str]:
    """Yield remarks on the classes that matter for the test accuracy."""
    if untested := [name for name in train if name not in test]:
        yield (
            f"{len(untested)} of {len(train)} classes have no test pictures, such as "
            f"{untested[0]}: test accuracy does not cover them"
        )
    first: dict[str, str] = {}
    alike = [(of, name) for name in train if (of := first.setdefault(_key(name), name)) != name]
    if alike:
        one, other = alike[0]
        yield f"{len(alike)} classes differ{ALIKE} from others, such as {other!r} from {one!r}"


def _key(name: str) -> str:
    """Return a key that is equal for names that differ only by letter case or Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


def _samples(by_class: Mapping[str, list[Path]], classes: list[str], folder: Path) -> list[Sample]:
    """Return the samples of all classes, in the order of their names' SHA-256."""
    labels = {name: label for label, name in enumerate(classes)}
    samples = [(path, labels[name]) for name, paths in by_class.items() for path in paths]
    return sorted(samples, key=lambda sample: _sum(sample[0], folder))


def _sum(path: Path, folder: Path) -> str:
    return hashlib.sha256(os.fsencode(path.relative_to(folder))).hexdigest()
