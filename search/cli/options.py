"""The options that commands have in common.

Nothing slow is imported here, so that `--help` and a mistyped option answer at once.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from search.cli.parser import seconds, whole

DEFAULT_STORAGE = "sqlite:///search.db"
STORAGE_VARIABLE = "SEARCH_STORAGE"
DATA_HELP = (
    "folder of the image files, fetched if they are not there, and of the folders of pictures that "
    "a study of your own names (default: data/)"
)
STUDY_HELP = (
    "cifar, digits, or the path of a Python file that defines `study`, as studies/your-own.md "
    "shows (required)"
)
MOST_WORKERS = 1024
"""Of one command."""
TRAINING = ("epochs", "images", "seed", "select")
"""The options that change what a trial's figures are; also fields of `search.study.Study`."""


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which study of which database is meant."""
    parser.add_argument(
        "--study",
        required=True,
        metavar="NAME",
        help=STUDY_HELP,
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="name of the study in the database (default: the study's own name)",
    )
    add_storage(parser)


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which database is meant."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE,
        help="database: sqlite:///FILE on a disk of this machine, or "
        "postgresql://USER:PASSWORD@HOST/DATABASE with the extra `postgres` "
        f"(default: ${STORAGE_VARIABLE}, else {DEFAULT_STORAGE})",
    )


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where files are."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help=DATA_HELP,
    )
    add_artifacts(parser)


def add_artifacts(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where workers keep files."""
    parser.add_argument(
        "--artifacts",
        metavar="DIR",
        default="artifacts",
        help="folder, or s3://BUCKET/PREFIX with the extra `s3`, of checkpoints, 10 to 30 MB for "
        "each running trial, and of the weights that are kept, 9 to 10 MB for each variant and "
        "each of the 5 best trials (default: artifacts/)",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that train."""
    parser.add_argument(
        "--epochs",
        type=whole(1),
        metavar="N",
        help="epochs of a trial that is not pruned (default: the study's; cifar's 10, digits' 8)",
    )
    parser.add_argument(
        "--images",
        type=whole(2),
        metavar="N",
        help="train on the first N images, and test on the first N at most (default: all; cifar "
        "has 50000 and 10000)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cuda, cuda:1, mps or cpu; auto takes CUDA, else MPS, else the CPU "
        "(default: auto)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, 1024),
        metavar="N",
        help="CPU threads of PyTorch for each trial that is trained at a time (default: 1)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        metavar="N",
        help="seed of all random draws (default: the study's; 0 for cifar and digits)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="stop after so many seconds, within a batch; the same command goes on "
        "(default: no limit)",
    )


def add_repeats(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options that say with which seeds something is trained; `default` is for a reader."""
    parser.add_argument(
        "--repeats",
        type=whole(1, 1000),
        metavar="K",
        help=f"train with K fresh seeds, the same for all (default: {default})",
    )
    parser.add_argument(
        "--first-repeat",
        type=whole(0, 1000),
        default=0,
        metavar="K",
        help="number of the first of a variant's seeds, to share them out among machines "
        "(default: 0)",
    )


def add_select(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the split that selects."""
    parser.add_argument(
        "--select",
        choices=("test", "validation"),
        help="prune and rank on test accuracy as the report did, or on the last tenth of the "
        "training images, held out (default: the study's; test)",
    )


def workers(text: str) -> int | None:
    """Return a number of workers; None for `auto`."""
    if text == "auto":
        return None
    try:
        return whole(1, MOST_WORKERS)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"auto, or {error}") from None


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the named options that have a value."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}
