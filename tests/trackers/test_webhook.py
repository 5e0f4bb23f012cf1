"""A webhook, on real servers: one that answers, and some that do not."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from search.errors import UserError
from search.study.study import Study
from search.trackers import Webhook
from tests.support.curves import loss, value
from tests.support.http import listening
from tests.support.process import Start

SECRET = "T0/open-sesame"
"""A part of the URL that nothing may print."""


@contextmanager
def _listening(status: int, got: list[Any]) -> Iterator[str]:
    """Yield the URL of a server that answers with `status`, and appends what it got."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], json.loads(content)))
            self.send_response(status)
            self.send_header("Location", f"/elsewhere/{SECRET}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            got.append("a request without its content")

        def log_message(self, *arguments: object) -> None: ...

    with listening(Handler) as url:
        yield f"{url}{SECRET}?key={SECRET}"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("epochs", [False, True])
def test_it_sends_json_after_a_trial_and_if_asked_after_an_epoch(
    start: Start, study: Study, epochs: bool
) -> None:
    got: list[Any] = []
    with _listening(204, got) as place:
        process = start(replace(study, callbacks=[Webhook(place, epochs=epochs)]))
        process.run(process.claim())
    trial = {
        "study": "curves",
        "study_key": process.ref.key,
        "number": 0,
        "key": f"{process.ref.key}-0",
        "name": "half",
        "params": {"x": 0.5},
        "seed": study.trial_seed(process.trials[0]),
        "metric": "value",
        "direction": "maximize",
    }
    stored = process.database.epochs(process.ref.key, 0)
    told = [
        {
            "number": n,
            "metrics": {"value": value(0.5, n), "loss": loss(0.5, n)},
            "seconds": stored[n - 1].seconds,
        }
        for n in range(1, 11)
    ]
    result = {"state": "complete", "value": value(0.5, 10), "reason": "", "last": told[-1]}
    expected: list[Any] = [{"event": "epoch", "trial": trial, "epoch": one} for one in told]
    expected = (expected if epochs else []) + [{"event": "trial", "trial": trial, "result": result}]
    path = f"/{SECRET}?key={SECRET}"
    assert got == [(path, "application/json", one) for one in expected]


def _warnings(
    start: Start, study: Study, place: str, caplog: pytest.LogCaptureFixture
) -> list[str]:
    caplog.set_level(logging.DEBUG)
    process = start(replace(study, callbacks=[Webhook(place, timeout_seconds=0.2)], trials=1))
    process.work()
    assert [trial.state.name for trial in process.trials] == ["COMPLETE"]
    assert "open-sesame" not in caplog.text
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_refusal_is_logged_without_the_url(
    start: Start, study: Study, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    got: list[Any] = []
    with _listening(status, got) as place:
        warnings = _warnings(start, study, place, caplog)
    assert warnings == [f"trial 0: Webhook.after_trial: NotSent: the server answered {status}"]
    assert len(got) == 1


def test_a_server_that_is_down_or_hangs_or_speaks_nonsense_is_logged_without_the_url(
    start: Start, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        place = f"http://127.0.0.1:{hangs.getsockname()[1]}/{SECRET}"
        assert _warnings(start, study, place, caplog) == [
            "trial 0: Webhook.after_trial: NotSent: timed out"
        ]
    caplog.clear()
    study = replace(study, name="down")
    (warning,) = _warnings(start, study, place, caplog)
    assert warning.startswith("trial 0: Webhook.after_trial: NotSent: [Errno 111]")
    caplog.clear()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        place = f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}"
        (warning,) = _warnings(start, replace(study, name="nonsense"), place, caplog)
        thread.join()
    assert warning == "trial 0: Webhook.after_trial: NotSent: BadStatusLine"


@pytest.mark.parametrize(
    "place",
    [
        f"host/{SECRET}",
        f"ftp://host/{SECRET}",
        f"https:///{SECRET}",
        f"https://me:{SECRET[3:]}@host/",
        f"https://host:{SECRET}/",
        f"https://host/{SECRET} x",
        f"https://host/{SECRET}/ä",
        None,
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(place: Any) -> None:
    with pytest.raises(UserError, match="needs a URL such as https://host/path") as error:
        Webhook(place)
    assert "sesame" not in str(error.value)


def test_its_text_does_not_show_the_url() -> None:
    assert "sesame" not in repr(Webhook(f"https://host/{SECRET}"))
