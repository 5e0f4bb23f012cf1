"""Sixteen processes at once on an empty database: `python -m tests.benchmarks.starters`.

The whole command, `python -m search.run`, with a budget of trials, with one of epochs, and with one
of epochs of which a confirmation takes 42; and the loop that Optuna's pages recommend for the same:
variants enqueued with `skip_if_exists`, and `MaxTrialsCallback`. Two processes of each are killed
on the way. Printed is what is in the database when all have ended: finished trials or epochs of a
budget, how often each variant and each re-run completed, trials left running, and processes that
failed.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from search.database.database import Database
from search.study.trial_attributes import FINISHED, ORIGIN, REPEAT, VARIANT
from tests.benchmarks.databases import empty
from tests.support.commands import fresh_environment

BUDGET = 30
EPOCHS_BUDGET = 61
CONFIRMATION = 42
"""Epochs of the default confirmation: 3 trials with 3 seeds, one with 5 more, 3 epochs each."""
ENDED_BY_US = -signal.SIGKILL
ERRORS = "errors"
"""File for what the processes print on standard error."""
OURS = ("-m", "search.run", "--study", "digits", "--images", "160", "--epochs", "3", "--threads",
        "1")  # fmt: skip
PLAIN = f"""\
import os, random, time
import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from search.database.url import engine_options, resolved
from search.study.space import Space
from studies.cifar import VARIANTS, Choices

space = Space(Choices)

def objective(trial):
    space.suggest(trial)
    for epoch in range(1, 4):
        time.sleep(0.1)
        trial.report(random.random(), step=epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return random.random()

url = resolved(os.environ["SEARCH_STORAGE"])
storage = optuna.storages.RDBStorage(
    url.render_as_string(hide_password=False), engine_kwargs=engine_options(url)
)
study = optuna.create_study(
    study_name="digits", storage=storage, direction="maximize", load_if_exists=True,
    pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
)
for name, choices in VARIANTS.items():
    study.enqueue_trial(space.params(choices), user_attrs={{"variant": name}}, skip_if_exists=True)
finished = TrialState.COMPLETE, TrialState.PRUNED
study.optimize(objective, callbacks=[MaxTrialsCallback({BUDGET}, states=finished)])
"""


def _run(arguments: tuple[str, ...], url: str, folder: Path, n_starters: int) -> list[int]:
    """Start so many processes at once, kill two on the way, and return how each ended."""
    environment = fresh_environment() | {
        "SEARCH_STORAGE": url,
        "OMP_NUM_THREADS": "1",
    }
    with (folder / ERRORS).open("w") as errors:
        processes = [
            subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, env=environment,
                stdout=subprocess.DEVNULL, stderr=errors,
            )
            for _ in range(n_starters)
        ]  # fmt: skip
    database = Database(url)
    for victim in processes[:2]:
        before = len(_finished(database))
        while victim.poll() is None and len(_finished(database)) < before + 3:
            time.sleep(0.05)
        victim.kill()
    database.close()
    return [process.wait(timeout=600) for process in processes]


def _trials(database: Database, study: int = 0) -> list[FrozenTrial]:
    """Return the trials of the search, or those of another study that was created after it."""
    names = [study.study_name for study in database.optuna.get_all_studies()]
    ids = sorted(map(database.optuna.get_study_id_from_name, names))
    return database.uncached.get_all_trials(ids[study]) if study < len(ids) else []


def _finished(database: Database) -> list[FrozenTrial]:
    return [trial for trial in _trials(database) if trial.state in FINISHED]


def _told(url: str, statuses: list[int]) -> str:
    database = Database(url)
    trials, reruns = _trials(database), _trials(database, 1)
    finished = len(_finished(database))
    epochs = sum(len(trial.intermediate_values) for trial in trials)
    database.close()
    complete = Counter(
        t.user_attrs[VARIANT] for t in trials if t.state in FINISHED and VARIANT in t.user_attrs
    )
    running = sum(trial.state == TrialState.RUNNING for trial in (*trials, *reruns))
    again = Counter((t.user_attrs[ORIGIN], t.user_attrs[REPEAT]) for t in reruns)
    more = sum(len(trial.intermediate_values) for trial in reruns)
    confirmed = f", each re-run {set(again.values())} times, {more} more epochs" if again else ""
    failed = sum(status not in (0, ENDED_BY_US) for status in statuses)
    return (
        f"{finished} trials finished, {epochs} epochs; variants finished "
        f"{sorted(complete.values())} times{confirmed}; {running} left running; "
        f"{failed} of {len(statuses)} processes failed"
    )


def _failures(errors: Path) -> list[str]:
    """Return the error messages of the processes' tracebacks, with their counts."""
    found = re.findall(r"^(\w[\w.]*(?:Error|Exception)\b.*)$", errors.read_text(), re.MULTILINE)
    return [f"{count} times {line[:150]}" for line, count in Counter(found).most_common(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starters", type=int, default=16)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for kind in options.databases:
        for name, arguments in (
            (f"search.run --trials {BUDGET}", (*OURS, "--trials", str(BUDGET))),
            (
                f"search.run --epochs-budget {EPOCHS_BUDGET}",
                (*OURS, "--epochs-budget", str(EPOCHS_BUDGET)),
            ),
            (
                f"search.run --epochs-budget {EPOCHS_BUDGET + CONFIRMATION} --confirm",
                (*OURS, "--epochs-budget", str(EPOCHS_BUDGET + CONFIRMATION), "--confirm"),
            ),
            (f"plain Optuna, {BUDGET} trials", ("-c", PLAIN)),
        ):
            with tempfile.TemporaryDirectory() as folder, empty(kind, Path(folder)) as url:
                began = time.monotonic()
                statuses = _run(arguments, url, Path(folder), options.starters)
                told = _told(url, statuses)
                took = time.monotonic() - began
                where = make_url(url).get_backend_name()
                print(f"{where:10} {name:42} {told}; {took:.0f} s", flush=True)
                for line in _failures(Path(folder) / ERRORS):
                    print(f"{'':36} {line}", flush=True)


if __name__ == "__main__":
    main()
