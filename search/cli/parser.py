"""A command's parser, the types of its options, and the handling of its errors.

No slow imports here, so that `--help` and mistyped options respond immediately.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from search import output, signals
from search.errors import UserError
from search.study.numerals import decimal_number, whole_number

COMPLETION_VARIABLE = "_ARGCOMPLETE"
"""Set if a shell runs the command to get completions."""


class _Help(argparse.HelpFormatter):
    """Fills a paragraph, and leaves the lines of a longer text as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return textwrap.indent(text, indent)
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line and does not accept abbreviations."""

    @property
    def actions(self) -> list[argparse.Action]:
        """The options that were added."""
        return self._actions

    def __init__(self, module: str, description: str) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def print_help(self, file: Any = None) -> None:
        output.deliver(self.format_help())

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}{self._way_out(message)}\n")

    def _way_out(self, message: str) -> str:
        """Return a hint for argparse's errors about unknown and missing options."""
        if not message.startswith(("unrecognized", "the following")):
            return ""
        from difflib import get_close_matches

        unknown = message.partition(": ")[2].partition(" ")[0].partition("=")[0]
        close = get_close_matches(unknown, list(self._option_string_actions), cutoff=0.75)
        if close and close[0] != unknown:
            return f"; did you mean {close[0]}?"
        return "; --help explains every option"


class CommandParser(Parser):
    """The parser of one of the commands of another parser, made by argparse."""

    def __init__(self, *, prog: str, description: str, **unused: Any) -> None:
        super().__init__(prog.removeprefix("python -m "), description)


def whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `lowest` to `highest`."""
    rule = f"of {lowest} or more" if highest is None else f"from {lowest} to {highest}"

    def convert(text: str) -> int:
        number = whole_number(text)
        if number is None or number < lowest or (highest is not None and number > highest):
            raise argparse.ArgumentTypeError(f"a whole number {rule} is needed, not {text!r}")
        return number

    return convert


def seconds(text: str) -> float:
    """Parse a positive, finite number of seconds."""
    number = decimal_number(text)
    if number is None or number <= 0:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return number


def decimal(text: str) -> float:
    """Parse a finite number."""
    number = decimal_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"a number is needed, not {text!r}")
    return number


T = TypeVar("T")


def or_none(convert: Callable[[str], T]) -> Callable[[str], T | None]:
    """Return a parser of what `convert` parses, and of `none`."""

    def converted(text: str) -> T | None:
        if text == "none":
            return None
        try:
            return convert(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"none, or {error}") from None

    return converted


def share(text: str) -> float:
    """Parse a share from 0 to 1."""
    number = decimal_number(text)
    if number is None or not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1 is needed, not {text!r}")
    return number


def command(parser: Parser, run: Callable[[argparse.Namespace], int]) -> Callable[[], int]:
    """Return the command's entry point, which reports an error in one line and an exit status.

    0: done; 1: failed; 2: invalid request; 128 plus the number of the signal that stopped it.
    """

    def work() -> int:
        with output.kept():
            status = _status(parser, run)
            output.finish(None if status < 128 else output.END_SECONDS)
            return status

    return partial(signals.interruptible, work)


def _check_current_folder() -> None:
    """Check that the current folder exists; without it, even importing PyTorch fails."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder has been deleted; `cd` to another one") from error


def _status(parser: Parser, run: Callable[[argparse.Namespace], int]) -> int:
    try:
        if COMPLETION_VARIABLE in os.environ:
            from search.cli.completion import answer

            answer(parser)
        options = parser.parse_args()
        _check_current_folder()
        return run(options)
    except Exception as error:
        reported = _report(error)
        if reported is None:
            raise
        status, message = reported
        if message:
            print(f"{parser.prog}: {message}", file=sys.stderr)
        return status


def _report(error: Exception) -> tuple[int, str] | None:
    """Return the exit status and the message, which may be empty; None for an unforeseen error."""
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if isinstance(error, output.NotDelivered):
        is_wanted = isinstance(error.__cause__, BrokenPipeError)  # the reader closed it on purpose
        return 1, "" if is_wanted else f"error: standard output: {error}"
    if isinstance(error, PermissionError):
        place = "" if error.filename is None else f"{error.filename}: "
        return 2, f"error: {place}{error.strerror}; give another"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "search").startswith("search"):
        return 2, (
            f"error: the package {str(error.name).partition('.')[0]} is not installed for "
            f"{sys.executable}; use the Python of the environment in which this project is "
            "installed, such as .venv/bin/python"
        )
    from search.database.outage import first_line, is_outage, is_refusal

    if is_refusal(error):
        return 2, f"error: --storage: {first_line(error)}"
    if is_outage(error):
        return 1, f"the database does not answer: {first_line(error)}"
    return None
