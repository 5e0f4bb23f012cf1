"""Shell completion of options, studies, devices and folders, with argcomplete.

The shell integration is part of argcomplete: for a command marked PYTHON_ARGCOMPLETE_OK, it runs
the command, which prints completions and exits. Source: https://kislyuk.github.io/argcomplete/.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.study.shipped import known

if TYPE_CHECKING:
    from search.cli.parser import Parser


def answer(parser: "Parser") -> None:
    """Tell the shell what may come next in its line, and end the process."""
    import argcomplete
    from argcomplete.completers import ChoicesCompleter, DirectoriesCompleter, FilesCompleter

    python_files = FilesCompleter(("py",))

    def studies(prefix: str, **asked: Any) -> list[str]:
        return known() + list(python_files(prefix, **asked))

    completers = {
        "study": studies,
        "device": lambda **asked: devices(),
        "data": DirectoriesCompleter(),
        "artifacts": DirectoriesCompleter(),
        "compare": FilesCompleter(("csv",)),
        "show": FilesCompleter(("csv",)),
        "out": FilesCompleter(),
    }
    for action in parser.actions:
        action.completer = completers.get(action.dest)  # type: ignore[attr-defined]
    no_files = ChoicesCompleter({})  # for options that take a name or a number
    argcomplete.autocomplete(parser, always_complete_options="long", default_completer=no_files)


def devices(folder: Path = Path("/dev")) -> list[str]:
    """Return values of `--device`; `folder` contains the device files of CUDA devices."""
    cuda = sorted(path.name[6:] for path in folder.glob("nvidia[0-9]*"))
    return ["auto", "cpu", "cuda", "mps", *(f"cuda:{number}" for number in cuda)]
