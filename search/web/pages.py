"""What is added to the pages of Optuna's dashboard, which are one HTML file and its scripts.

A strip at the bottom leads to the list of studies, and says so if nothing can be edited. A style
hides the buttons that would then fail, and makes room in narrow windows. A script lets studies open
with their notes, which explain them. They rely on the addresses of Optuna's pages, and on the names
of its components and icons; where a new version has others, its pages are as it made them.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import optuna_dashboard
from bottle import Bottle, HTTPResponse, Route

STUDIES = "/studies"
"""Path of the list of studies; see `search.web.study_list`."""
SCRIPT = "/links.js"
"""Path of the script: Optuna's security policy allows none within a page."""
POLICY = "Content-Security-Policy"


def study_path(study_id: int) -> str:
    """Return the path of the page with a study's charts; those of its other pages begin with it."""
    return f"/dashboard/studies/{study_id}"


def trial_path(study_id: int, number: int | str) -> str:
    return f"{study_path(study_id)}/trials?numbers={number}"


def add_to_pages(app: Bottle, *, edits: bool) -> None:
    """Add all of it to the dashboard's pages, and let the first page be the list of studies."""
    app.install(_Pages(edits=edits))
    app.route(SCRIPT, "GET", _script)


def _script() -> HTTPResponse:
    return HTTPResponse(_added("links.js"), headers={"Content-Type": "text/javascript"})


def _added(name: str) -> str:
    return files(__package__).joinpath("added", name).read_text(encoding="utf-8")


class _Pages:
    """Replaces the answers of the routes of pages, and keeps their security policy."""

    api = 2
    name = "pages"

    def __init__(self, *, edits: bool) -> None:
        style = _added("style.css") + ("" if edits else _added("read_only.css"))
        mode = "" if edits else " · read-only"
        head = f'<style>\n{style}</style>\n<script src="{SCRIPT}"></script>\n</head>'
        body = f'<div id="search"><a href="{STUDIES}">Studies</a>{mode}</div>\n</body>'
        index = files(optuna_dashboard).joinpath("index.html").read_text(encoding="utf-8")
        self._page = index.replace("</head>", head, 1).replace("</body>", body, 1)

    def apply(self, route: Callable[..., Any], context: Route) -> Callable[..., Any]:
        if context.rule == "/":
            return lambda: HTTPResponse(status=302, headers={"Location": STUDIES})
        return self._with_additions(route) if context.rule.startswith("/dashboard") else route

    def _with_additions(self, route: Callable[..., Any]) -> Callable[..., Any]:
        def answer(**asked: Any) -> HTTPResponse:
            page = route(**asked)
            page.close()
            headers = {name: page.headers[name] for name in ("Content-Type", POLICY)}
            return HTTPResponse(self._page, headers=headers)

        return answer
