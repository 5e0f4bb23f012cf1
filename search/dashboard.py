"""View studies in a browser: `python -m search.dashboard`.

Serves Optuna's dashboard from the same database and files as the other commands. It is safe to
leave running: read-only by default, and reachable only from this machine unless there is a token.
"""
# PYTHON_ARGCOMPLETE_OK: `search.cli.completion` answers the Tab key.

import argparse
import os
import re
import socket
import sys
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from search.cli.options import add_artifacts, add_storage, check_storage
from search.cli.parser import Parser, command, whole
from search.errors import UserError

if TYPE_CHECKING:
    from search.web.server import Address

TOKEN_VARIABLE = "SEARCH_DASHBOARD_TOKEN"
TOKEN_LENGTH = 16
"""Minimum length of a token in characters; `openssl rand -hex 16` makes twice as many."""
CONNECTIONS = 8
"""Database connections, one for each request being answered."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY_BYTES = 2**20
MAX_UPLOAD_BYTES = 2**27
"""The upload limit of Optuna's dashboard."""

EPILOG = f"""\
examples:
  python -m search.dashboard                   http://127.0.0.1:8080/, read-only
  python -m search.dashboard --port 0          on any free port, which it prints
  python -m search.dashboard --allow-edits     edit notes and artifacts, rename and delete studies
  {TOKEN_VARIABLE}=... python -m search.dashboard --host 0.0.0.0

exit status: 1 the database became unavailable at the start, 2 invalid request,
129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM
"""


def parser() -> Parser:
    made = Parser(
        "search.dashboard",
        "Show the studies of a database in a browser, with Optuna's dashboard. By default it is "
        "read-only and reachable only from this machine.",
    )
    made.epilog = EPILOG
    add_storage(made)
    add_artifacts(made)
    made.add_argument(
        "--host",
        metavar="NAME",
        default=LOOPBACK[0],
        help="name or address of this machine to listen on, such as 0.0.0.0 for all of its "
        f"addresses; if others can reach it, ${TOKEN_VARIABLE} must hold a token, which clients "
        "send as the password of any user name, unencrypted unless a proxy adds encryption "
        f"(default: {LOOPBACK[0]})",
    )
    made.add_argument(
        "--port",
        type=whole(0, 65535),
        metavar="N",
        default=8080,
        help="port to listen on, 0 for any that is free (default: 8080)",
    )
    made.add_argument(
        "--allow-edits",
        action="store_true",
        help="allow its users to change and delete studies; an edited note is no longer updated "
        "(default: read-only)",
    )
    made.add_argument(
        "--allowed-host",
        type=_host,
        action="append",
        metavar="NAME",
        default=[],
        help="another host name that it answers to, such as a proxy's; can be given several times "
        "(default: the names of this machine, and --host)",
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Check all options, then serve until a signal."""
    from search.artifacts.store import open_artifacts
    from search.web.server import Address, serve

    token = _token()
    address = Address.of(options.host.strip("[]"), options.port)
    if token is None and not address.is_loopback:
        raise UserError(
            f"--host {options.host}: others can reach this address, so it needs a token in "
            f"{TOKEN_VARIABLE}; `openssl rand -hex 16` makes one, or leave out --host"
        )
    check_storage(options.storage)
    artifacts = open_artifacts(options.artifacts)

    from search.database.database import Database
    from search.web.app import dashboard_app
    from search.web.guard import Guard

    with (
        address.listen() as listening,
        closing(Database(options.storage, connections=CONNECTIONS, may_create=False)) as database,
    ):
        guard = Guard(
            app=dashboard_app(database, artifacts.store, edits=options.allow_edits),
            names=_names(address, options.allowed_host),
            any_address=address.is_any,
            edits=options.allow_edits,
            token=token,
        )
        mode = "edits allowed" if guard.edits else "read-only"
        asks = ", asks for the token" if token else ""
        url = address.url(listening.getsockname()[1])
        return serve(
            guard,
            listening,
            max_body_bytes=MAX_UPLOAD_BYTES if guard.edits else MAX_BODY_BYTES,
            ready=partial(print, f"{url}  ({mode}{asks}; Ctrl-C stops it)", flush=True),
        )


def _token() -> str | None:
    token = os.environ.get(TOKEN_VARIABLE)
    if token and len(token) < TOKEN_LENGTH:
        raise UserError(
            f"{TOKEN_VARIABLE}: a token of {TOKEN_LENGTH} or more characters is needed, not "
            f"{len(token)}; `openssl rand -hex 16` makes one"
        )
    if token and not token.isprintable():  # undecodable bytes are not printable either
        raise UserError(
            f"{TOKEN_VARIABLE}: a token must be UTF-8 text without control characters; `openssl "
            "rand -hex 16` makes one"
        )
    return token or None


def _names(address: "Address", allowed: list[str]) -> frozenset[str]:
    """Return the host names that the dashboard answers to."""
    own = () if address.is_loopback else (socket.gethostname().lower(),)
    return frozenset({*LOOPBACK, address.host.lower(), *own, *allowed})


def _host(text: str) -> str:
    """Return a host name in lower case."""
    name = text.strip("[]").lower()
    if not re.fullmatch(r"[0-9a-z._-]+|[0-9a-f:.]+", name):
        raise argparse.ArgumentTypeError(
            f"a bare name or address is needed, such as search.example.org, not {text!r}"
        )
    return name


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
