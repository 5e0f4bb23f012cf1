"""What the dashboard's guard lets through, asked without a server."""

import base64
import dataclasses
import json
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest

from search.web.guard import Guard

TOKEN = "0123456789abcdéf"
OWN = {"Host": "localhost:8080"}


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Optuna's dashboard as the guard sees it; a path /page has a policy of its own."""
    headers = [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*")]
    if environ["PATH_INFO"] == "/page":
        headers.append(("Content-Security-Policy", "default-src 'self'"))
    if environ["PATH_INFO"] == "/":
        headers.append(("Location", "http://localhost:8080/page"))
    start_response("200 OK", headers)
    return [b"inside"]


GUARD = Guard(app=_app, names={"localhost", "127.0.0.1", "::1", "search.example.org"})
OPEN = dataclasses.replace(GUARD, edits=True)


def _ask(
    guard: Guard, method: str = "GET", path: str = "/page", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Return the status, headers and text of the answer; `Sec_Fetch_Site` is a header too."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
    setup_testing_defaults(environ)
    del environ["HTTP_HOST"]
    environ |= {f"HTTP_{name.upper()}": value for name, value in (OWN | headers).items()}
    answered: list[Any] = []
    body = guard(environ, lambda *answer: answered.extend(answer))  # type: ignore[arg-type]
    return int(answered[0][:3]), dict(answered[1]), b"".join(body).decode()


def _basic(password: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(f'me:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "127.0.0.1:80", "[::1]:9", "[::1]", "Search.Example.org"],
)
def test_it_is_asked_by_its_names_with_any_port(host: str) -> None:
    assert _ask(GUARD, Host=host)[::2] == (200, "inside")


@pytest.mark.parametrize(
    "host",
    ["evil.org", "localhost.evil.org", "localhost@evil.org", "evil.org:localhost", "10.0.0.7", "",
     "localhost, evil.org", "localhost:8080:1", "[evil.org]", "localhost:x", "localhost\n"],
)  # fmt: skip
def test_another_name_is_refused(host: str) -> None:
    status, _, text = _ask(GUARD, Host=host)
    assert status == 421
    assert text.count("\n") == 1
    assert "--allowed-host" in text


@pytest.mark.parametrize("host", ["10.0.0.7:8080", "[2001:db8::7]"])
def test_listening_on_every_address_it_is_asked_by_any_address_but_by_no_other_name(
    host: str,
) -> None:
    everywhere = dataclasses.replace(GUARD, any_address=True)
    assert _ask(everywhere, Host=host)[0] == 200
    assert _ask(everywhere, Host="evil.org")[0] == 421
    assert _ask(everywhere, Host="10.0.0.7.evil.org")[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_what_writes_is_refused_unless_edits_are_allowed(method: str) -> None:
    status, headers, text = _ask(GUARD, method, "/api/studies")
    assert (status, headers["Content-Type"]) == (403, "application/json")
    assert "--allow-edits" in json.loads(text)["reason"]
    status, headers, text = _ask(GUARD, method)
    assert (status, headers["Content-Type"]) == (403, "text/plain; charset=utf-8")
    assert _ask(OPEN, method)[0] == 200


def test_what_reads_is_let_through() -> None:
    assert _ask(GUARD, "GET")[0] == _ask(GUARD, "HEAD")[0] == 200
    assert _ask(GUARD, "HEAD", Host="evil.org")[::2] == (421, "")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.org", "http://localhost", "http://localhost:3000",
     "http://localhost:8080.evil.org", "localhost:8080", ""],
)  # fmt: skip
def test_a_page_of_another_origin_is_refused_edits_or_not(method: str, origin: str) -> None:
    status, _, text = _ask(OPEN, method, Origin=origin)
    assert (status, text) == (
        403,
        f"the request comes from a page of another site: its Origin {origin!r} is not at the Host "
        "'localhost:8080'\n",
    )
    assert _ask(OPEN, method, Origin="http://localhost:8080")[0] == 200
    assert _ask(OPEN, method, Origin="https://localhost:8080")[0] == 200  # through a proxy


def test_an_edit_that_another_sites_page_started_is_refused_and_a_link_to_the_page_works() -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        assert _ask(OPEN, "POST", Sec_Fetch_Site=site)[0] == status
    assert _ask(OPEN, "GET", Sec_Fetch_Site="cross-site")[0] == 200


def test_with_a_token_it_is_the_password_of_any_user_name() -> None:
    guard = dataclasses.replace(GUARD, token=TOKEN)
    assert _ask(guard, Authorization=_basic(TOKEN))[::2] == (200, "inside")
    assert _ask(guard, Authorization=_basic(TOKEN, "basic"))[0] == 200
    wrong = [_basic(""), _basic(TOKEN[:-1]), _basic(TOKEN + "0"), _basic(TOKEN, "Bearer"), "Basic",
             "Basic é", f"Basic {TOKEN}", TOKEN]  # fmt: skip
    for credentials in [*({"Authorization": one} for one in wrong), {}]:
        status, headers, text = _ask(guard, **credentials)
        assert status == 401
        assert headers["WWW-Authenticate"].startswith("Basic realm=")
        assert TOKEN not in text
    assert _ask(guard, "POST", Authorization=_basic(TOKEN))[0] == 403
    assert _ask(guard, Authorization=_basic(TOKEN), Origin="http://evil.org")[0] == 403


def test_the_answers_cannot_be_framed_read_by_other_sites_or_run_as_pages() -> None:
    for guard, path in ((GUARD, "/page"), (GUARD, "/artifacts/1/2/3"), (GUARD, "//artifacts/1")):
        _, headers, _ = _ask(guard, path=path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        own = "default-src 'self'" if path == "/page" else "sandbox"
        assert headers["Content-Security-Policy"] == own


def test_a_redirect_does_not_say_by_which_scheme() -> None:
    assert _ask(GUARD, path="/")[1]["Location"] == "/page"
