"""A webhook: JSON by POST, with the standard library."""

import dataclasses
import json
import re
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from search.errors import UserError
from search.study.callbacks import Callback, TrialInfo, TrialResult
from search.study.metrics import Epoch


class NotSent(Exception):
    """The server did not take the request; the message does not contain its URL."""


class Webhook(Callback):
    """Sends JSON to a URL after each trial.

    It is an object with `event`, which is `"trial"` or `"epoch"`, `trial`, and `result` or `epoch`,
    as in `search.study.callbacks`. The URL may hold a secret: no message contains it.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 10.0, epochs: bool = False) -> None:
        """`epochs` tells whether to send one after each epoch too.

        Raises:
            UserError: the URL is not one, or names a user, which is not supported.
        """
        if not _is_url(url):
            raise UserError(
                "callbacks: Webhook needs a URL such as https://host/path, without a user before "
                "the host; the one that was given is not shown, since it may hold a secret"
            )
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._sends_epochs = epochs

    def after_epoch(self, trial: TrialInfo, epoch: Epoch) -> None:
        if self._sends_epochs:
            self._send("epoch", trial, {"epoch": dataclasses.asdict(epoch)})

    def after_trial(self, trial: TrialInfo, result: TrialResult) -> None:
        self._send("trial", trial, {"result": dataclasses.asdict(result)})

    def _send(self, event: str, trial: TrialInfo, what: dict[str, Any]) -> None:
        told = {"event": event, "trial": {**dataclasses.asdict(trial), "key": trial.key}, **what}
        request = Request(
            self._url,
            data=json.dumps(told).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        try:
            build_opener(_NoRedirect).open(request, timeout=self._timeout_seconds).close()
        except HTTPError as error:
            error.close()
            why = f"the server answered {error.code}"
        except OSError as error:
            why = str(error.reason if isinstance(error, URLError) else error)
        except (HTTPException, ValueError) as error:
            why = type(error).__name__
        else:
            return
        raise NotSent(why)  # not from the error, which may contain the URL


def _is_url(url: object) -> bool:
    if not isinstance(url, str) or not re.fullmatch(r"[!-~]+", url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # a number, or an error
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET without its content."""

    def redirect_request(self, *arguments: Any) -> None:
        return None
