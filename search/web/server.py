"""Serves a WSGI application on a network address until a signal."""

import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType
from typing import Any
from wsgiref.types import WSGIApplication

from search import signals
from search.errors import UserError

THREADS = 8
"""Threads that handle requests; a client that sends or receives slowly occupies none."""
IDLE_SECONDS = 30
"""Timeout of an idle connection."""
END_SECONDS = 1
"""How long running requests may continue after the signal."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A resolved address to listen on."""

    host: str
    """The name or address as given."""
    port: int
    """0 for any free port."""
    family: socket.AddressFamily
    socket_address: tuple[Any, ...]

    @classmethod
    def of(cls, host: str, port: int) -> "Address":
        """Resolve the host, preferring IPv4.

        Raises:
            UserError: the host cannot be resolved.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            cause = getattr(error, "strerror", None) or error
            raise UserError(f"--host {host}: {cause}; give a name of this machine") from error
        found.sort(key=lambda one: one[0] != socket.AF_INET)
        family, _, _, _, socket_address = found[0]
        return cls(host=host, port=port, family=family, socket_address=socket_address)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self._ip.is_loopback

    @property
    def is_any(self) -> bool:
        """Whether it means all addresses of this machine."""
        return self._ip.is_unspecified

    @property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.socket_address[0])

    def listen(self) -> socket.socket:
        """Bind the address and listen.

        Raises:
            UserError: the port is in use, or this machine does not have the address.
        """
        try:
            return socket.create_server(self.socket_address, family=self.family)
        except OSError as error:
            cause = os.strerror(error.errno or 0)
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"--port {self.port}: the port is in use ({cause}); give another --port"
                ) from error
            raise UserError(
                f"--host {self.host} --port {self.port}: {cause}; give another"
            ) from error

    def url(self, port: int) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{port}/"


def serve(
    app: WSGIApplication,
    listening: socket.socket,
    *,
    max_body_bytes: int,
    ready: Callable[[], None],
) -> int:
    """Serve until a signal of `search.signals`; return 128 plus its number.

    `ready` is called once requests are answered. The same signal again ends the process at once,
    except SIGHUP.
    """
    import waitress

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = waitress.create_server(
        app,
        sockets=[listening],
        threads=THREADS,
        channel_timeout=IDLE_SECONDS,
        max_request_body_size=max_body_bytes,
        log_socket_errors=False,
        ident=None,
    )
    statuses: SimpleQueue[int] = SimpleQueue()  # safe to use in a signal handler

    def end(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:  # sent twice when a shell and its terminal end
            signal.signal(number, signal.SIG_DFL)
        statuses.put(128 + number)

    def run() -> None:
        try:
            server.run()
        finally:
            statuses.put(1)

    with signals.handled(end):
        # In a separate thread: an exception raised in it by a signal handler could get lost.
        threading.Thread(target=run, name="server", daemon=True).start()
        ready()
        status = statuses.get()
        server.task_dispatcher.shutdown(timeout=END_SECONDS)
        return status
