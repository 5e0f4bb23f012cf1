"""A search as it runs: a live table on a terminal, plain lines elsewhere.

Both are made from the database in a thread of their own, so that they show every worker of the
study alike and cost training nothing.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from optuna.trial import TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from search import output
from search.outage import tolerating_outage
from search.overview import Observer, Overview
from search.trials import REASON, label

POLL_SECONDS = 0.5


@contextmanager
def following(observer: Observer, console: Console, *, epochs: int, budget: int) -> Iterator[None]:
    """Show the study on `console` until the end of the block, then its last state."""
    show = _Table if console.is_terminal else _Lines
    with show(console, observer.look(), epochs=epochs, budget=budget) as view:
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_SECONDS):
                if output.is_stuck():
                    continue  # what is new meanwhile is shown once the reader reads again
                with tolerating_outage():  # the worker meets it too, and is the one to say so
                    view.update(observer.look())

        thread = threading.Thread(target=follow, name="view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with tolerating_outage():
                view.update(observer.look())


class _Lines:
    """One line for each epoch and each ended trial that was not there at the start, and for each
    trial that another worker goes on with."""

    def __init__(self, console: Console, first: Overview, *, epochs: int, budget: int) -> None:
        self._console = console
        self._possible = epochs
        self._ended = {trial.number for trial in first.trials if trial.state.is_finished()}
        self._shown = {trial.number: len(first.of(trial)) for trial in first.trials}
        self._workers = {number: lease.worker for number, lease in first.leases.items()}

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, overview: Overview) -> None:
        for trial in overview.trials:
            if trial.number in self._ended:
                continue
            recorded, shown = overview.of(trial), self._shown.get(trial.number, 0)
            if lease := overview.leases.get(trial.number):
                if shown and self._workers.get(trial.number) != lease.worker:
                    self._print(f"[{label(trial)}] goes on after epoch {shown}")
                self._workers[trial.number] = lease.worker
            for epoch in recorded[shown:]:
                self._print(f"[{label(trial)}] {epoch}")
            self._shown[trial.number] = len(recorded)
            if trial.state.is_finished():
                self._ended.add(trial.number)
                outcome = trial.user_attrs.get(REASON, "no reason is known")
                if trial.state == TrialState.COMPLETE:
                    outcome = f"accuracy {overview.score(trial) or 0.0:.4f}"
                outcome = overview.told.get(trial.number, outcome)
                ran = f"after {len(recorded)} of {self._possible} epochs"
                self._print(f"[{label(trial)}] {trial.state.name} {ran}: {outcome}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Table:
    """A table of the running trials, the best so far, the budget and the time left."""

    def __init__(self, console: Console, first: Overview, *, epochs: int, budget: int) -> None:
        self._possible = epochs
        self._budget = budget
        self._start = time.monotonic()
        self._ran_before = sum(map(len, first.epochs.values()))
        self._console = console
        self._live = Live(self._render(first), console=console, auto_refresh=False)

    def __enter__(self) -> "_Table":
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # a kill must not leave the terminal without one
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def update(self, overview: Overview) -> None:
        self._live.update(self._render(overview), refresh=True)

    def _render(self, overview: Overview) -> RenderableType:
        table = Table("trial", "epoch", "batches/s", "accuracy", box=None, pad_edge=False)
        for trial in overview.running:
            lease, recorded = overview.leases[trial.number], overview.of(trial)
            table.add_row(
                label(trial),
                f"{min(len(recorded) + 1, self._possible)} of {self._possible}",
                "" if lease.batches_per_second is None else f"{lease.batches_per_second:.1f}",
                f"{recorded[-1].selection_accuracy:.4f}" if recorded else "",
            )
        done = len(overview.finished)
        pruned = sum(trial.state == TrialState.PRUNED for trial in overview.trials)
        failed = sum(trial.state == TrialState.FAIL for trial in overview.trials)
        best = ""
        if overview.ranked:
            first = overview.ranked[0]
            best = f", best {first.values[0]:.4f} (trial {label(first)})"
        counts = f"{done} of {self._budget} trials, {pruned} pruned, {failed} failed{best}"
        bar = ProgressBar(total=self._budget, completed=done, width=40)
        return Group(table, bar, counts, f"time left: {self._time_left(overview)}")

    def _time_left(self, overview: Overview) -> str:
        """Estimate from this run's own pace: epochs a second, and epochs a finished trial took."""
        ran = sum(map(len, overview.epochs.values())) - self._ran_before
        finished = [overview.of(trial) for trial in overview.finished]
        if ran <= 0 or not finished:
            return "not known yet"
        per_trial = sum(map(len, finished)) / len(finished)
        begun = sum(len(overview.of(trial)) for trial in overview.running)
        to_run = max((self._budget - len(finished)) * per_trial - begun, 0)
        pace = (time.monotonic() - self._start) / ran
        return f"about {timedelta(seconds=round(to_run * pace))}"
