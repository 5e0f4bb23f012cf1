"""The studies that come with the package, one module each; `search.study.study.load` finds them."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # a project's own folder `studies` is importable too
