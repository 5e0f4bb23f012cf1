"""Command-line options, and what becomes of a command's errors.

Nothing slow is imported here, so that `--help` and a mistyped option answer at once.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from search.errors import UserError

DEFAULT_STORAGE = "sqlite:///search.db"
STORAGE_VARIABLE = "SEARCH_STORAGE"
COMPLETION_VARIABLE = "_ARGCOMPLETE"
"""Set where a shell runs the command to ask what may come next in its line."""
DATA_HELP = (
    "folder of the image files, fetched if they are not there, and of the folders of pictures that "
    "a study of your own names (default: data/)"
)
STUDY_HELP = (
    "cifar, digits, or the path of a Python file that defines `study`, as studies/your-own.md "
    "shows (required)"
)
TRAINING = ("epochs", "images", "seed", "select")
"""The options that change what a trial's figures are; also fields of `search.study.Study`."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Fills a paragraph, and leaves a text that has lines of its own as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        kind = argparse.RawDescriptionHelpFormatter if "\n" in text else argparse.HelpFormatter
        return kind._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line and takes no abbreviations."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"python -m search.{command}",
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}{self._way_out(message)}\n")

    def _way_out(self, message: str) -> str:
        """Return the end of an error's line that argparse leaves without a way out."""
        if not message.startswith(("unrecognized", "the following")):
            return ""
        from difflib import get_close_matches

        unknown = message.partition(": ")[2].partition(" ")[0].partition("=")[0]
        close = get_close_matches(unknown, list(self._option_string_actions), cutoff=0.75)
        if close and close[0] != unknown:
            return f"; did you mean {close[0]}?"
        return "; --help explains every option"


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
        help="epochs of a trial that is not pruned (default: the study's; 10 for cifar, 8 digits)",
    )
    parser.add_argument(
        "--images",
        type=whole(2),
        metavar="N",
        help="train on the first N images (default: all; cifar has 50000)",
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
        help="CPU threads of PyTorch (default: PyTorch's own choice, one a core)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
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


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the named options that have a value."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a converter of option values to whole numbers from `lowest` to `highest`."""
    rule = f"of {lowest} or more" if highest is None else f"from {lowest} to {highest}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest or (highest is not None and number > highest):
            raise argparse.ArgumentTypeError(f"a whole number {rule} is needed, not {text!r}")
        return number

    return convert


def seconds(text: str) -> float:
    """Return a positive, finite number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return number


def command(parser: Parser, run: Callable[[argparse.Namespace], int]) -> Callable[[], int]:
    """Return the command's entry point, which turns errors into one line and an exit status.

    0: done; 1: the work failed; 2: what was asked cannot be done; 130: interrupted.
    """

    def main() -> int:
        try:
            if COMPLETION_VARIABLE in os.environ:
                from search.completion import answer

                answer(parser)
            return run(parser.parse_args())
        except UserError as error:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("search"):
                raise
            package = error.name.partition(".")[0]
            print(
                f"{parser.prog}: error: the package {package} is not installed for "
                f"{sys.executable}; use the Python of the environment that this project was "
                "installed in, such as .venv/bin/python",
                file=sys.stderr,
            )
            return 2
        except Exception as error:
            from search.outage import first_line, is_outage

            if not is_outage(error):
                raise
            cause = first_line(error)
            print(f"{parser.prog}: the database does not answer: {cause}", file=sys.stderr)
            return 1

    return main
