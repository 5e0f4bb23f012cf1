"""Who may ask the dashboard for what: a WSGI application around Optuna's, which lets anyone do
anything.

It reads, unless edits are allowed; it answers to its own names alone, so that no page elsewhere can
reach it through a name of its own making (DNS rebinding), and to no page but its own (request
forgery); it asks for a token, if there is one. Encryption is for a proxy in front of it.
"""

import base64
import hmac
import ipaddress
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

READS = ("GET", "HEAD")
"""None of the dashboard's routes for these writes anything, and reading needs no others."""
HARDENING = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATA_POLICY = "Content-Security-Policy", "sandbox"
"""The policy of what has none of its own, such as artifacts: opened as a page, it runs nothing."""
CHALLENGE = 'Basic realm="any user name, and the token as password", charset="UTF-8"'

Headers = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer that is not the application's."""

    status: str
    reason: str
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The application, for the requests that are allowed; its answers, with stricter headers."""

    app: WSGIApplication
    names: Collection[str]
    """The hosts it may be asked for as, in lower case and without a port."""
    any_address: bool = False
    """Whether any IP address is such a host: nobody can make one lead here that does not."""
    edits: bool = False
    token: str | None = None
    """The password that is asked for, with any user name; None for none."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = partial(_hardened, start_response)
        refusal = self._refusal(environ)
        if refusal is None:
            return self.app(environ, answer)
        return _refuse(refusal, environ, answer)

    def _refusal(self, environ: WSGIEnvironment) -> Refusal | None:
        host = str(environ.get("HTTP_HOST", "")).lower()
        if not self._is_ours(host):
            return Refusal(
                status="421 Misdirected Request",
                reason=f"{host[:100]!r} is no name of this dashboard; --allowed-host adds one",
            )
        if (reason := _another_sites_page(environ, host)) is not None:
            return Refusal(status="403 Forbidden", reason=reason)
        if self.token is not None and not _knows(self.token, environ):
            return Refusal(
                status="401 Unauthorized",
                reason="the token is needed, as the password of any user name",
                headers=[("WWW-Authenticate", CHALLENGE)],
            )
        if not self.edits and environ["REQUEST_METHOD"] not in READS:
            return Refusal(
                status="403 Forbidden",
                reason="this dashboard is read-only; started with --allow-edits it is not",
            )
        return None

    def _is_ours(self, host: str) -> bool:
        parts = re.fullmatch(r"(\[[^][]+\]|[^][:]+)(:\d*)?", host)
        if parts is None:
            return False
        name = parts[1].strip("[]")
        return name in self.names or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _another_sites_page(environ: WSGIEnvironment, host: str) -> str | None:
    """Return why a page that asked is none of `host`; None if it is, or none asked. A link to it
    may stand on any page."""
    reason = "a page of another site asked for this"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and str(origin).lower().partition("://")[2] != host:
        # A proxy may have left out the port, so both are told.
        return f"{reason}: its Origin {str(origin)[:100]!r} is not at the Host {host[:100]!r}"
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    if environ["REQUEST_METHOD"] not in READS and site not in ("same-origin", "none"):
        return reason
    return None


def _knows(token: str, environ: WSGIEnvironment) -> bool:
    scheme, _, credentials = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        _, _, password = base64.b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        return False
    return hmac.compare_digest(password, token.encode())


def _refuse(
    refusal: Refusal, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    if environ.get("PATH_INFO", "").startswith("/api"):  # the page shows such a reason
        kind, text = "application/json", json.dumps({"reason": refusal.reason})
    else:
        kind, text = "text/plain; charset=utf-8", refusal.reason + "\n"
    body = text.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), *refusal.headers]
    start_response(refusal.status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _hardened(
    start_response: StartResponse, status: str, headers: Headers, exc_info: Any = None, /
) -> Any:
    kept = {name.lower(): (name, value) for name, value in headers}
    kept.pop("access-control-allow-origin", None)  # by which any site's page could read artifacts
    if "location" in kept:  # a proxy that adds encryption is reached by another scheme
        kept["location"] = ("Location", urlsplit(kept["location"][1]).path)
    kept.setdefault("content-security-policy", DATA_POLICY)
    return start_response(status, [*kept.values(), *HARDENING.items()], exc_info)
