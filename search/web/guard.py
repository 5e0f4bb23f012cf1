"""Access control for Optuna's dashboard, which has none: a WSGI application around it.

Requests may only read, unless edits are allowed. They must use one of the dashboard's host names,
against DNS rebinding, and must not come from another site's page, against request forgery. They
must carry the token, if one is set. Encryption is left to a proxy.
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
"""The methods that suffice for reading; none of the dashboard's routes for them writes."""
HARDENING = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATA_POLICY = "Content-Security-Policy", "sandbox"
"""For answers without a policy, such as artifacts: opened as a page, they run no code."""
CHALLENGE = 'Basic realm="any user name, and the token as password", charset="UTF-8"'

Headers = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer given instead of the application's."""

    status: str
    reason: str
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Passes allowed requests to the application, and adds stricter headers to its answers."""

    app: WSGIApplication
    names: Collection[str]
    """The accepted host names, in lower case and without a port."""
    any_address: bool = False
    """Whether any IP address is accepted too: unlike a name, it cannot be rebound."""
    edits: bool = False
    token: str | None = None
    """The required password, with any user name; None if no password is required."""

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
                reason=f"the dashboard has no host name {host[:100]!r}; --allowed-host adds one",
            )
        if (reason := _another_sites_page(environ, host)) is not None:
            return Refusal(status="403 Forbidden", reason=reason)
        if self.token is not None and not _knows(self.token, environ):
            return Refusal(
                status="401 Unauthorized",
                reason="the token is required, as the password of any user name",
                headers=[("WWW-Authenticate", CHALLENGE)],
            )
        if not self.edits and environ["REQUEST_METHOD"] not in READS:
            return Refusal(
                status="403 Forbidden",
                reason="this dashboard is read-only; --allow-edits allows edits",
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
    """Return why the request comes from a page of another site than `host`; None if it does not.

    Links on other sites' pages are allowed.
    """
    reason = "the request comes from a page of another site"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and str(origin).lower().partition("://")[2] != host:
        # A proxy may have left out the port, so the message shows both.
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
    if environ.get("PATH_INFO", "").startswith("/api"):  # the page shows this reason
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
    kept.pop("access-control-allow-origin", None)  # would let any site read artifacts
    if "location" in kept:  # a proxy that adds encryption has another scheme
        kept["location"] = ("Location", urlsplit(kept["location"][1]).path)
    kept.setdefault("content-security-policy", DATA_POLICY)
    return start_response(status, [*kept.values(), *HARDENING.items()], exc_info)
