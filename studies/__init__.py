"""The studies that come with the package, one module each; `search.study.load` finds them."""
