"""A WSGI application on a network address, until a signal ends it."""

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
"""So many requests are worked at; who sends or receives slowly takes none of them."""
IDLE_SECONDS = 30
"""So long a connection may be silent."""
END_SECONDS = 1
"""So long requests that are being worked at may go on after the signal."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen, found but not yet taken."""

    host: str
    """As it was given: a name or an address."""
    port: int
    """0 for any that is free."""
    family: socket.AddressFamily
    socket_address: tuple[Any, ...]

    @classmethod
    def of(cls, host: str, port: int) -> "Address":
        """Look the host up; of several addresses, an IPv4 one is taken first.

        Raises:
            UserError: there is no such host.
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
        """Whether this machine alone can reach it."""
        return self._ip.is_loopback

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        return self._ip.is_unspecified

    @property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.socket_address[0])

    def listen(self) -> socket.socket:
        """Take the address.

        Raises:
            UserError: the port is taken, or this machine does not have the address.
        """
        try:
            return socket.create_server(self.socket_address, family=self.family)
        except OSError as error:
            cause = os.strerror(error.errno or 0)
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"--port {self.port}: the port is taken ({cause}); give another --port"
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
    """Serve until a signal of `search.signals`; return 128 and its number, as shells have it.

    `ready` is called once requests are answered. The same signal again ends the process at once,
    but for SIGHUP.
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
    statuses: SimpleQueue[int] = SimpleQueue()  # which a signal may use at any moment

    def end(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:  # which comes twice where a shell and its terminal end
            signal.signal(number, signal.SIG_DFL)
        statuses.put(128 + number)

    def run() -> None:
        try:
            server.run()
        finally:
            statuses.put(1)

    with signals.handled(end):
        # In a thread of its own: an exception that a signal raised in there could get lost.
        threading.Thread(target=run, name="server", daemon=True).start()
        ready()
        status = statuses.get()
        server.task_dispatcher.shutdown(timeout=END_SECONDS)
        return status
