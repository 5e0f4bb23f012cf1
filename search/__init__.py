"""Hyperparameter search over one small convolutional network, stored in a SQL database."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # a checkout can be run by any Python
    print(
        f"search: error: Python 3.11 or newer is needed, not {sys.version.split()[0]}; "
        "create a virtual environment with a newer one, such as python3.11 -m venv .venv",
        file=sys.stderr,
    )
    raise SystemExit(2)

if sys.argv[:1] == ["-m"]:  # Python is about to run a module of this package as a command
    if not sys.flags.safe_path:
        # Python searches the current folder first, where a user's torch.py or studies.py would
        # hide the real module.
        sys.path.append(sys.path.pop(0))

    from search.signals import end_at_once

    end_at_once()
