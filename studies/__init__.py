"""The studies included in the package, one module each; `search.study.study.load` finds them."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # also import from a project's folder `studies`
