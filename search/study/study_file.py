"""Loads a study: a shipped one by its name, or a user's Python file by its path."""

import sys
import traceback
from contextlib import redirect_stdout
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from search.errors import UserError
from search.study.shipped import import_package, known, shipped
from search.study.study import Study


def load(name: str) -> Study:
    """Return the shipped study `name`, or the `study` of the Python file `name`.

    Raises:
        UserError: there is no such study or file, or the file does not define `study`.
    """
    if name.endswith(".py"):
        module = _loaded(name)
    elif name in known():
        module = shipped(name)
    else:
        way_out = (
            f"did you mean {name}.py?"
            if Path(f"{name}.py").is_file()
            else (f"known: {', '.join(known())}, or the path of a Python file that defines `study`")
        )
        raise UserError(f"--study {name}: unknown study; {way_out}")
    study = getattr(module, "study", None)
    if not isinstance(study, Study):
        raise UserError(
            f"--study {name}: it does not define a `study` of type search.study.Study; add "
            'study = Study(name="…", choices=…, train=…, metric="…")'
        )
    return study


def _loaded(name: str) -> ModuleType:
    """Run the Python file `name`, which may import files in its folder.

    The source is compiled each time: Python's cached bytecode is stale if a file was changed within
    a second and kept its length. The file's output goes to standard error, since a command's output
    may be JSON.

    Raises:
        UserError: the file does not exist or raises an error.
    """
    path = Path(name).absolute()
    # No import uses this name, so the file hides no module; without a dot, it is in no package.
    loader = SourceFileLoader(f"study file {str(path).replace('.', ' ')}", str(path))
    spec = spec_from_file_location(loader.name, path, loader=loader)
    if spec is None or not path.is_file():
        raise UserError(f"--study {name}: there is no such file in {Path.cwd()}; give its path")
    import_package()  # first, so that a user's folder `studies` does not take its place
    # At the end, so that a file torch.py in the folder hides nothing, but before the current
    # folder. It is not removed, since the file's functions may import as well.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(len(sys.path) - (sys.path[-1] == str(Path.cwd())), folder)
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look up their annotations here
    try:
        with redirect_stdout(sys.stderr):
            exec(loader.source_to_code(path.read_bytes(), path), vars(module))
    except (Exception, SystemExit) as error:  # the file is user input: any error is possible
        del sys.modules[loader.name]
        raise UserError(f"--study {name}{_described(error, path)}") from error
    return module


def _described(error: BaseException, path: Path) -> str:
    """Return the line of the file and the error, in one line of text."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    where = f", line {lines[-1]}" if lines else ""
    text = f"{where}: {kind}{' '.join(str(error).split())}"
    if isinstance(error, ImportError) and "relative import" in text:
        text += "; a study file is in no package: use `from helpers import x` for a file next to it"
    return text
