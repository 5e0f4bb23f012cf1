"""The progress of a search: a live view on a terminal, plain lines elsewhere.

Both read the database in a separate thread, so they show all workers of the study and do not slow
training down.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from operator import itemgetter

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live

from search import output
from search.database.outage import tolerating_outage
from search.database.snapshot import Observer, Overview
from search.reporting.status import Status
from search.study.budget import Budget
from search.study.metrics import Epoch, number
from search.study.space import params_text
from search.study.study import Study
from search.study.trial_attributes import CANCELED, REASON, REOPENED, fixed_name, label

POLL_SECONDS = 0.5


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
                with _tolerating():  # the worker meets the outage too, and reports it
                    view.update(observer.look())

        thread = threading.Thread(target=follow, name="view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with _tolerating():
                view.update(observer.look())


@contextmanager
def _tolerating() -> Iterator[None]:
    """Ignore that the database does not answer, or that the study has been deleted."""
    with tolerating_outage(), suppress(KeyError):
        yield


class _Lines:
    """A line, with the time, for each trial that begins, each epoch, and each trial that finishes
    since the start; for each trial that another worker resumes or that goes on after it was pruned;
    and for a pause of the study."""

    def __init__(self, console: Console, first: Overview, study: Study, *, budget: Budget) -> None:
        self._console = console
        self._study = study
        self._ended = {trial.number: trial.datetime_complete for trial in first.trials}
        """When each trial ended for the last time, since one that was pruned can go on."""
        self._reopened = {trial.number: trial.user_attrs.get(REOPENED) for trial in first.trials}
        """The epoch after which each trial went on for the last time."""
        self._shown = {trial.number: len(first.of(trial)) for trial in first.trials}
        self._begun = {trial.number for trial in first.trials if first.of(trial)}
        """The trials whose choices have been printed, or were in an earlier command's output."""
        self._workers = {number: lease.worker for number, lease in first.leases.items()}
        self._is_paused = first.is_paused

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, overview: Overview) -> None:
        if overview.is_paused != self._is_paused:
            self._is_paused = overview.is_paused
            self._print("paused: the workers wait" if self._is_paused else "resumed after a pause")
        news = [one for trial in overview.trials for one in self._news(trial, overview)]
        for _, line in sorted(news, key=itemgetter(0)):
            self._print(line)

    def _news(self, trial: FrozenTrial, overview: Overview) -> Iterator[tuple[float, str]]:
        """Yield lines on what has happened to the trial since the last look, with numbers by which
        those of all trials are sorted: the places of epochs. What happens before an epoch has the
        same one, and so has the end after it."""
        lease, recorded = overview.leases.get(trial.number), overview.of(trial)
        shown = self._shown.get(trial.number, 0)
        self._shown[trial.number] = len(recorded)
        new = recorded[shown:]
        places = [overview.places.get((trial.number, epoch.number), 0) for epoch in new]
        before, *after = *places, math.inf
        reopened = self._reopening(trial, recorded)
        is_taken = lease and self._workers.get(trial.number) != lease.worker
        if lease:
            self._workers[trial.number] = lease.worker
        name, place = f"[{label(trial)}]", 0.0
        if reopened == shown:
            place = before
            yield place, f"{name} goes on after epoch {shown}"
        elif is_taken and shown:
            place = before
            yield place, f"{name} resumes after epoch {shown}"
        is_drawn = lease and self._study.space.is_complete(trial.params)
        if trial.number not in self._begun and (recorded or is_drawn):
            self._begun.add(trial.number)
            place = before
            yield place, f"{name} begins: {params_text(trial.params)}"
        for epoch, own, following in zip(new, places, after, strict=True):
            place = own
            text = f"{self._study.epoch_text(epoch)} seconds: {epoch.seconds:.2f}"
            yield place, f"{name} {text}"
            if reopened == epoch.number:
                place = following
                yield place, f"{name} goes on after epoch {reopened}"
        if trial.state.is_finished() and trial.datetime_complete != self._ended.get(trial.number):
            self._ended[trial.number] = trial.datetime_complete
            yield place, f"{name} {self._end(trial, overview)}"

    def _reopening(self, trial: FrozenTrial, recorded: Sequence[Epoch]) -> int | None:
        """Return the epoch after which the trial has gone on since the last look."""
        before, now = self._reopened.get(trial.number), trial.user_attrs.get(REOPENED)
        self._reopened[trial.number] = now
        is_just_canceled = CANCELED in trial.user_attrs and now == len(recorded)
        return None if now == before or is_just_canceled else now

    def _end(self, trial: FrozenTrial, overview: Overview) -> str:
        recorded = overview.of(trial)
        outcome = trial.user_attrs.get(REASON, "no reason recorded")
        if trial.state == TrialState.COMPLETE:
            outcome = f"{self._study.objective.quantity} {number(overview.value(trial))}"
        outcome = overview.told.get(trial.number, outcome)
        ran = f"after {len(recorded)} of {self._study.epochs} epochs"
        text = f"{trial.state.name} {ran}: {outcome}"
        if overview.ranked:
            best = overview.ranked[0]
            name = fixed_name(best) or f"trial {best.number}"
            text += f"; best {number(best.values[0])} ({name})"
        return text

    def _print(self, line: str) -> None:
        now = f"{datetime.now():%H:%M:%S}"
        self._console.print(f"{now} {line}", markup=False, highlight=False, soft_wrap=True)


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

    def _status(self, overview: Overview) -> Status:
        elapsed = timedelta(seconds=round(time.monotonic() - self._start))
        return Status(
            overview=overview,
            budget=self._budget,
            times=f"elapsed {elapsed}, time left: {self._time_left(overview)}",
        )

    def _time_left(self, overview: Overview) -> str:
        """Estimate the time left from this run's seconds per epoch, and under a budget of trials
        from the finished trials' mean number of epochs; before one has finished, from the number
        of all epochs, which is too high if any is pruned."""
        ran = overview.n_recorded - self._ran_before
        finished, budget = [overview.of(trial) for trial in overview.finished], self._budget
        if ran <= 0:
            return "not known yet"
        to_run: list[float] = []
        if budget.epochs is not None:
            to_run.append(budget.epochs - overview.n_recorded)
        if budget.trials is not None:
            per_trial = sum(map(len, finished)) / len(finished) if finished else overview.n_epochs
            begun = sum(len(overview.of(trial)) for trial in overview.running)
            to_run.append((budget.trials - len(finished)) * per_trial - begun)
        pace = (time.monotonic() - self._start) / ran
        how = "about" if finished or budget.trials is None else "at most"
        return f"{how} {timedelta(seconds=round(max(min(to_run), 0) * pace))}"
