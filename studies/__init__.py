"""The studies included in the package, one module each; see `search.study.study_file`."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # also import from a project's folder `studies`
