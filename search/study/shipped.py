"""The shipped studies, by name; `search.study.study_file` loads them.

They are the package `studies` next to `search`. The current folder, which `python -m` searches
first, may contain a different `studies` folder.
"""

import importlib
import pkgutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "studies"


def known() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))


def shipped(name: str) -> ModuleType:
    """Return the module of a shipped study."""
    import_package()
    return importlib.import_module(f"studies.{name}")


def import_package() -> None:
    """Make `import studies.NAME` find the shipped studies first, then the user's.

    A `studies` package that is already imported keeps its contents.
    """
    package = sys.modules.get("studies")
    if package is None:
        spec = spec_from_file_location("studies", FOLDER / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        package = sys.modules["studies"] = module_from_spec(spec)
        spec.loader.exec_module(package)
    folders = list(getattr(package, "__path__", []))
    if str(FOLDER) not in folders:
        package.__path__ = [str(FOLDER), *folders]
