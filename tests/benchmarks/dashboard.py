"""What a large study costs those who look at it: `python -m tests.benchmarks.dashboard`.

Over a study of made-up trials: the answer that the study's page waits for, of this service's
dashboard, which offers their learning curves too, and, in turn with it, of Optuna's own over the
same database, the plain reference: cold, as the first answer after its start, and warm, with the
ended trials in its storage's cache; and what it takes to draw a trial's curves, and to write the
study's note.
Seconds and milliseconds: median, lowest and highest.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import get_storage  # noqa: TID251  # what is measured is Optuna's own

from search.database.database import Database
from search.database.identity import study_ref
from search.database.studies import join
from search.reporting.curves import svg
from search.reporting.notes import Notes
from search.study.study import Study
from search.study.study_file import load
from search.web.app import dashboard_app
from tests.benchmarks.databases import empty
from tests.support.made_up import made_up


def _ask(app: WSGIApplication) -> None:
    """Ask for what the page of study 1 shows."""
    environ: dict[str, Any] = {"PATH_INFO": "/api/studies/1"}
    setup_testing_defaults(environ)
    answered: list[str] = []
    body = app(environ, lambda status, headers, *rest: answered.append(status))  # type: ignore[arg-type]
    content = b"".join(body)
    assert answered == ["200 OK"]
    assert json.loads(content)["trials"]


def _seconds(act: Callable[[], object], rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        took.append(time.perf_counter() - began)
    return took


def _shown(seconds: list[float], factor: float = 1.0) -> str:
    low, high = min(seconds) * factor, max(seconds) * factor
    return f"{statistics.median(seconds) * factor:.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", nargs="+", type=int, default=[1000, 10000])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = load("digits")
    with tempfile.TemporaryDirectory() as folder, empty(options.database, Path(folder)) as url:
        for n_trials in options.trials:
            _measure(study, url, Path(folder), n_trials, options.rounds)


def _measure(study: Study, url: str, folder: Path, n_trials: int, rounds: int) -> None:
    database = Database(url)
    joined = join(database, study, data_digest="none")
    made_up(database, study, n_trials - len(joined.get_trials(deepcopy=False)))
    notes = Notes(database=database, study=study, joined=joined)
    files = FileSystemArtifactStore(folder)
    took: dict[str, list[float]] = {}
    for _ in range(rounds):
        apps: dict[str, Any] = {
            "ours": dashboard_app(database, files),
            "plain": optuna_dashboard.wsgi(get_storage(database.uncached), files),
        }
        for cache, (name, app) in itertools.product(("cold", "warm"), apps.items()):
            # By which it would give the same answer for ten seconds.
            app._inmemory_cache.clear()  # noqa: SLF001
            took.setdefault(f"{name}, {cache}", []).extend(_seconds(partial(_ask, app), 1))
    for what, seconds in took.items():
        print(f"{n_trials} trials, {what}: the study's page after {_shown(seconds)} s", flush=True)
    epochs = database.epochs(study_ref(joined).key, joined.trials[-1].number)
    curves = _seconds(lambda: svg("digits, trial 1", epochs, {}, study.metric), rounds)
    note = []
    for _ in range(rounds):
        joined.tell(joined.ask(), state=optuna.trial.TrialState.FAIL)  # something new to say
        note += _seconds(notes.update, 1)
    print(
        f"{n_trials} trials: drawing curves takes {_shown(curves, 1000)} ms, the note "
        f"{_shown(note, 1000)} ms",
        flush=True,
    )
    database.close()


if __name__ == "__main__":
    main()
