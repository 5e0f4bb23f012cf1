"""The progress of a search: a live view on a terminal, plain lines elsewhere.

Both read the database in a separate thread, so they show all workers of the study and do not slow
training down.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from optuna.trial import FrozenTrial, TrialState
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from search import output
from search.database.outage import tolerating_outage
from search.database.snapshot import Observer, Overview
from search.reporting.fitted_table import FittedTable
from search.study.budget import Budget
from search.study.metrics import number
from search.study.study import Study
from search.study.trial_attributes import REASON, label

POLL_SECONDS = 0.5
BAR_WIDTH = 40


@contextmanager
def show_progress(
    observer: Observer, console: Console, study: Study, *, budget: Budget
) -> Iterator[None]:
    """Show the study's progress on `console` during the block."""
    show = _Screen if console.is_interactive else _Lines
    with show(console, observer.look(), study, budget=budget) as view:
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(POLL_SECONDS):
                if output.is_stuck():
                    continue  # the news is shown once the reader reads again
                with tolerating_outage():  # the worker meets the outage too, and reports it
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
    """One line for each epoch and each finished trial since the start, and for each trial that
    another worker resumes or that goes on after it was pruned."""

    def __init__(self, console: Console, first: Overview, study: Study, *, budget: Budget) -> None:
        self._console = console
        self._study = study
        self._ended = {
            trial.number: len(first.of(trial))
            for trial in first.trials
            if trial.state.is_finished()
        }
        """The finished trials, and the number of their epochs when they were."""
        self._shown = {trial.number: len(first.of(trial)) for trial in first.trials}
        self._workers = {number: lease.worker for number, lease in first.leases.items()}
        self._is_timed = False
        """Whether the time of an epoch has been printed."""

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, overview: Overview) -> None:
        for trial in overview.trials:
            recorded, shown = overview.of(trial), self._shown.get(trial.number, 0)
            if trial.state.is_finished() and self._ended.get(trial.number) == len(recorded):
                continue
            lease = overview.leases.get(trial.number)
            if self._ended.pop(trial.number, None) is not None:
                self._print(f"[{label(trial)}] goes on after epoch {shown}")
            elif lease and shown and self._workers.get(trial.number) != lease.worker:
                self._print(f"[{label(trial)}] resumes after epoch {shown}")
            if lease:
                self._workers[trial.number] = lease.worker
            for epoch in recorded[shown:]:
                self._print(f"[{label(trial)}] {self._study.epoch_text(epoch)}")
                if not self._is_timed:
                    self._is_timed = True
                    self._print(f"An epoch takes about {_duration(epoch.seconds)}.")
            self._shown[trial.number] = len(recorded)
            if trial.state.is_finished():
                self._ended[trial.number] = len(recorded)
                outcome = trial.user_attrs.get(REASON, "no reason recorded")
                if trial.state == TrialState.COMPLETE:
                    outcome = f"{self._study.objective.quantity} {number(overview.value(trial))}"
                outcome = overview.told.get(trial.number, outcome)
                ran = f"after {len(recorded)} of {self._study.epochs} epochs"
                self._print(f"[{label(trial)}] {trial.state.name} {ran}: {outcome}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Screen:
    """The best trial so far, the budget and the time left, above the running trials. Removed at the
    end, when the summary is printed."""

    def __init__(self, console: Console, first: Overview, study: Study, *, budget: Budget) -> None:
        self._study = study
        self._budget = budget
        self._start = time.monotonic()
        self._ran_before = first.n_recorded
        self._console = console
        self._live = Live(self._status(first), console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "_Screen":
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # a kill must not leave the terminal without a cursor
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def update(self, overview: Overview) -> None:
        self._live.update(self._status(overview), refresh=True)

    def _status(self, overview: Overview) -> "Status":
        return Status(
            overview=overview,
            study=self._study,
            budget=self._budget,
            time_left=self._time_left(overview),
        )

    def _time_left(self, overview: Overview) -> str:
        """Estimate the time left from this run's seconds per epoch, and under a budget of trials
        from the finished trials' mean number of epochs."""
        ran = overview.n_recorded - self._ran_before
        finished, budget = [overview.of(trial) for trial in overview.finished], self._budget
        if ran <= 0:
            return "not known yet"
        to_run: list[float] = []
        if budget.epochs is not None:
            to_run.append(budget.epochs - overview.n_recorded)
        if finished and budget.trials is not None:
            per_trial = sum(map(len, finished)) / len(finished)
            begun = sum(len(overview.of(trial)) for trial in overview.running)
            to_run.append((budget.trials - len(finished)) * per_trial - begun)
        if not to_run:
            *_, last = (epoch for recorded in overview.epochs.values() for epoch in recorded)
            return f"not known yet; an epoch takes about {_duration(last.seconds)}"
        pace = (time.monotonic() - self._start) / ran
        return f"about {timedelta(seconds=round(max(min(to_run), 0) * pace))}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a study at one moment, in fewer lines than the terminal has, which leaves one
    for the cursor: the counts first, then as many running trials as there is room for."""

    overview: Overview
    study: Study
    budget: Budget
    time_left: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        room = max(console.size.height - 1, 1)
        lines = [line for part in self._head(options) for line in _lines(console, options, part)]
        lines += self._running(console, options, room - len(lines))
        for line in lines[:room]:
            yield from line
            yield Segment.line()

    def _head(self, options: ConsoleOptions) -> Sequence[Text | Table]:
        overview = self.overview
        spent = {"trials": len(overview.finished), "epochs": overview.n_recorded}
        states = overview.counts
        best = "no trial is complete yet"
        if overview.ranked:
            first = overview.ranked[0]
            best = f"best {number(first.values[0])} (trial {label(first)})"
        count = self.budget.text(**spent)
        bar = Table.grid(padding=(0, 1))
        width = min(BAR_WIDTH, options.max_width - cell_len(count) - 1)
        cells = (
            [ProgressBar(total=1.0, completed=self.budget.share(**spent), width=width)]
            if width > 0
            else []
        )
        bar.add_row(*cells, Text(count))
        counts = f"{states[TrialState.PRUNED]} pruned, {states[TrialState.FAIL]} failed"
        status = f"{counts}; time left: {self.time_left}"
        return [Text(best, overflow="fold"), bar, Text(status, overflow="fold")]

    def _running(self, console: Console, options: ConsoleOptions, room: int) -> list[list[Segment]]:
        """Return a table of running trials and the number of those left out, in `room` lines."""
        running = self.overview.running
        for shown in range(min(len(running), room), 0, -1):
            lines = _lines(console, options, self._table(running[:shown]))
            if left := len(running) - shown:
                lines += _lines(console, options, Text(f"and {left} more"))
            if len(lines) <= room:
                return lines
        return _lines(console, options, Text(f"{len(running)} running")) if running else []

    def _table(self, running: Sequence[FrozenTrial]) -> FittedTable:
        rows, objective, epochs = [], self.study.objective, self.study.epochs
        for trial in running:
            rate = self.overview.leases[trial.number].batches_per_second
            recorded = self.overview.of(trial)
            rows.append(
                {
                    "trial": label(trial),
                    "epoch": f"{min(len(recorded) + 1, epochs)} of {epochs}",
                    "batches/s": "" if rate is None else f"{rate:.1f}",
                    objective.quantity: number(objective.value(recorded[-1]) if recorded else None),
                }
            )
        return FittedTable(
            rows=rows,
            droppable=["batches/s", "epoch", objective.quantity],
            box=None,
        )


def _lines(console: Console, options: ConsoleOptions, part: RenderableType) -> list[list[Segment]]:
    return console.render_lines(part, options, pad=False)
