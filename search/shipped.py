"""The studies that come with the package, by name; loading one is for `search.study`."""

import importlib
import pkgutil


def known() -> list[str]:
    """Return the names of the shipped studies."""
    package = importlib.import_module("studies")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))
