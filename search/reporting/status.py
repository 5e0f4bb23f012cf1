"""How far a study is: for the live view of a search, and for `python -m search`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from search.analysis.answer import Answer, answer, answer_from_reruns, reruns_of
from search.database import queries, steering
from search.database.budgets import early_end, search_budget, stored_confirmation
from search.database.database import Database
from search.database.identity import DEFINITION
from search.database.leases import Lease, n_at_work
from search.database.queries import StudyRef
from search.database.snapshot import Observer, Overview
from search.database.studies import ORIGIN_KEY, study_called, with_reruns
from search.errors import UserError
from search.reporting.choices import choices_text, differing
from search.reporting.commands import Commands
from search.reporting.fitted_table import FittedTable
from search.study.budget import Budget
from search.study.confirmation import Confirmation
from search.study.metrics import Objective, number
from search.study.space import params_text
from search.study.trial_attributes import FINISHED, REASON, label

BAR_WIDTH = 40
EPOCH_BAR = 10
"""Number of characters for the epochs of a running trial."""
ENDED = 5
"""Number of the trials that ended last, of which the view tells why."""
RERUNS = "mean of re-runs"
COLUMNS = ("study", "state", "trials", "epochs", "metric", "best", "best trial", RERUNS)
"""Of the table of studies."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A study at one moment: the best trial and the counts, the running trials, and those that
    ended last.

    On a terminal it takes fewer lines than that has, which leaves one for the cursor.
    """

    overview: Overview
    budget: Budget
    times: str = ""
    """The time that has passed, and that is left, in words."""
    is_whole: bool = False
    """Whether all of it is shown, however many lines it takes."""
    answer: Answer | None = None
    """Of the re-runs, if they decide which trial is the best."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        room = 10_000 if self.is_whole else max(console.size.height - 1, 1)
        lines = [line for part in self._head(options) for line in _lines(console, options, part)]
        lines += self._running(console, options, room - len(lines))
        lines += self._ended(console, options, room - len(lines))
        for line in lines[:room]:
            yield from line
            yield Segment.line()

    def _head(self, options: ConsoleOptions) -> Sequence[Text | Table]:
        overview = self.overview
        spent = {"trials": len(overview.finished), "epochs": overview.n_recorded}
        found = [Text("no trial is complete yet", overflow="fold")]
        if overview.ranked:
            first = overview.ranked[0]
            over_seeds = ""
            if self.answer is not None and self.answer.best is not None:
                first = self.answer.best
                over_seeds = f", {self.answer.spread} over {self.answer.seeds_text}"
            best = f"best {number(first.values[0])} (trial {label(first)}){over_seeds}"
            found = [Text(best, style="bold", overflow="fold")]
            if options.max_width >= 60:
                found.append(Text(f"  {params_text(first.params)}", style="dim", overflow="fold"))
        count = self.budget.text(**spent)
        bar = Table.grid(padding=(0, 1))
        width = min(BAR_WIDTH, options.max_width - cell_len(count) - 1)
        cells = (
            [ProgressBar(total=1.0, completed=self.budget.share(**spent), width=width)]
            if width > 0
            else []
        )
        bar.add_row(*cells, Text(count))
        n = len(overview.running)
        interrupted = overview.counts[TrialState.RUNNING] - n
        parts = [
            "paused" if overview.is_paused else "",
            f"{n} running",
            f"{interrupted} interrupted" if interrupted else "",
            count_text(overview, TrialState.PRUNED),
            count_text(overview, TrialState.FAIL),
        ]
        told = ", ".join(filter(None, parts)) + (f"; {self.times}" if self.times else "")
        return [*found, bar, Text(told, overflow="fold")]

    def _running(self, console: Console, options: ConsoleOptions, room: int) -> list[list[Segment]]:
        """Return a table of running trials and the number of those left out, in `room` lines."""
        running = self.overview.running
        for shown in range(min(len(running), room), 0, -1):
            lines = _lines(console, options, self._running_table(running[:shown], options))
            if left := len(running) - shown:
                lines += _lines(console, options, Text(f"and {left} more"))
            if len(lines) <= room:
                return lines
        return _lines(console, options, Text(f"{len(running)} running")) if running else []

    def _running_table(
        self, running: Sequence[FrozenTrial], options: ConsoleOptions
    ) -> FittedTable:
        overview = self.overview
        objective, epochs = overview.objective, overview.n_epochs
        best = overview.of(overview.ranked[0]) if overview.ranked else []
        names = differing([*running, *overview.ranked[:1]])
        is_utf = options.encoding.lower().startswith("utf")
        rows = []
        for trial in running:
            lease, recorded = overview.leases[trial.number], overview.of(trial)
            value = objective.value(recorded[-1]) if recorded else None
            gap = ""
            if value is not None and len(recorded) <= len(best):
                gap = f"{value - objective.value(best[len(recorded) - 1]):+.4f}"
            rate = lease.batches_per_second
            rows.append(
                {
                    "trial": label(trial),
                    "epoch": _epochs(len(recorded), epochs, is_utf=is_utf),
                    objective.quantity: number(value),
                    "vs best": gap,
                    "batches/s": "" if rate is None else f"{rate:.1f}",
                    "worker": worker_name(lease),
                    "choices": choices_text(trial, names),
                }
            )
        filled = [name for name in rows[0] if any(row[name] for row in rows)]
        return FittedTable(
            rows=[{name: row[name] for name in filled} for row in rows],
            texts=["epoch", "worker", "choices"],
            foldable=["choices"],
            droppable=["batches/s", "worker", "choices", "vs best", "epoch", objective.quantity],
            box=None,
        )

    def _ended(self, console: Console, options: ConsoleOptions, room: int) -> list[list[Segment]]:
        """Return the trials that ended last and why, in `room` lines."""
        overview = self.overview
        ended = [trial for trial in overview.trials if trial.datetime_complete is not None]
        ended.sort(key=lambda trial: (trial.datetime_complete, trial.number), reverse=True)
        for shown in range(min(len(ended), ENDED), 0, -1):
            table = FittedTable(
                rows=[
                    {
                        "ended": label(trial),
                        overview.objective.quantity: number(self._last(trial)),
                        "how": self._how(trial),
                    }
                    for trial in ended[:shown]
                ],
                texts=["how"],
                foldable=["how"],
                droppable=["how", overview.objective.quantity],
                box=None,
            )
            lines = _lines(console, options, table)
            if len(lines) <= room:
                return lines
        return []

    def _last(self, trial: FrozenTrial) -> float | None:
        recorded = self.overview.of(trial)
        return self.overview.objective.value(recorded[-1]) if recorded else None

    def _how(self, trial: FrozenTrial) -> str:
        told = self.overview.told.get(trial.number, trial.user_attrs.get(REASON, ""))
        n = len(self.overview.of(trial))
        if trial.state == TrialState.COMPLETE:
            return told or f"complete after {n} epoch{'s' if n > 1 else ''}"
        return f"{trial.state.name.lower()} after {n} of {self.overview.n_epochs} epochs: {told}"


def count_text(overview: Overview, state: TrialState) -> str:
    """Return how many trials were pruned or have failed, and how many of these a user canceled."""
    word = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}[state]
    canceled = overview.canceled[state]
    return f"{overview.counts[state]} {word}" + (f" ({canceled} canceled)" if canceled else "")


def worker_name(lease: Lease) -> str:
    """Return the host and the process id of the worker that holds a lease."""
    return lease.worker.rpartition("-")[0] or lease.worker


def status(database: Database, name: str) -> RenderableType:
    """Return how far the study called `name` is, and what ends it.

    Raises:
        UserError: there is no such study.
    """
    ref = study_called(database, name)
    joined = optuna.load_study(study_name=name, storage=database.optuna)
    overview = Observer(database, joined).look()
    budget = search_budget(joined) or Budget()
    with database.engine.connect() as connection:
        early = early_end(
            connection, ref, budget, objective=overview.objective, epochs=overview.n_epochs
        )
    found = answer(database, overview)
    state = _row(database, joined, ref, found)["state"]
    parts: list[RenderableType] = [Text(f"Study {name} in {database}: {state}.")]
    spent = {"trials": len(overview.finished), "epochs": overview.n_recorded}
    if early is not None and not budget.is_spent(**spent):
        parts.append(Text(f"Ended early: {early}."))
    elif budget.ends_early_with:
        parts.append(Text(f"It ends early with {budget.ends_early_with}."))
    by_reruns = found if found.is_of_reruns else None
    parts.append(Status(overview=overview, budget=budget, is_whole=True, answer=by_reruns))
    if found.text:
        parts.append(Text(found.text))
    return Group(*parts)


def listed(database: Database, commands: Commands) -> RenderableType:
    """Return a table of the studies of the database, or else a command that creates one."""
    names = sorted(optuna.get_all_study_names(database.optuna))
    rows = [study_row(database, name) for name in names]
    if not rows:
        search = commands.line("search.run", "--study digits")
        return Text(f"{database} has no study; a search creates one, such as `{search}`.")
    if not any(row[RERUNS] for row in rows):
        for row in rows:
            del row[RERUNS]
    return FittedTable(
        rows=rows,
        texts=["state", RERUNS],
        droppable=["epochs", "best trial", "trials"],
        foldable=["state", RERUNS],
    )


def shown_name(name: str) -> str:
    """Return a study's name for a terminal, which must not get its control characters."""
    return name if name.isprintable() else repr(name)


def study_row(database: Database, name: str) -> dict[str, str]:
    """Return the cells of a study's row, by column; all but two are empty if it is not one of this
    service."""
    try:
        ref = study_called(database, name)
    except UserError:
        empty = dict.fromkeys(COLUMNS, "")
        return empty | {"study": shown_name(name), "state": "not of this service, or a copy"}
    joined = optuna.load_study(study_name=name, storage=database.optuna)
    runs = reruns_of(database, ref.key)
    found = answer_from_reruns(Overview.of_study(database, name), runs) if runs else None
    return _row(database, joined, ref, found)


def _row(
    database: Database, joined: optuna.Study, ref: StudyRef, found: Answer | None
) -> dict[str, str]:
    """Return the cells of the row of one of this service's studies; `found` is the answer of its
    re-runs, and may be None if it has none."""
    row = dict.fromkeys(COLUMNS, "")
    definition = joined.user_attrs[DEFINITION]
    objective = Objective(metric=definition["metric"], direction=definition["direction"])
    has_reruns = ORIGIN_KEY in joined.user_attrs
    # Re-runs have no budget: a command enqueues those that it needs.
    budget = Budget() if has_reruns else search_budget(joined) or Budget()
    confirm = stored_confirmation(joined)
    is_confirmed = confirm is None or _is_confirmed(found, confirm)
    confirmation = "" if is_confirmed else _confirmation(database, ref)
    with database.engine.connect() as connection:
        counts = queries.counts(connection, ref)
        trials = sum(counts[state] for state in FINISHED)
        epochs = queries.n_epochs(connection, ref)
        best = queries.best(connection, ref, epochs=definition["epochs"], n=1)
        n_workers = n_at_work(connection, ref.key)
        is_over = (
            budget.is_spent(trials=trials, epochs=epochs)
            or (has_reruns and trials == counts.total() - counts[TrialState.FAIL])
            or early_end(connection, ref, budget, objective=objective, epochs=definition["epochs"])
            is not None
        )
        state = "done" if is_over else "not running"
        if is_over and best and confirmation:
            state = confirmation
        if n_workers:
            state = f"{n_workers} running"
        elif steering.read(connection, ref.key).is_paused:
            state = "paused"
        if (interrupted := counts[TrialState.RUNNING] - n_workers) > 0:
            state += f", {interrupted} interrupted"
        row |= {
            "study": shown_name(joined.study_name),
            "state": state,
            "trials": _of(trials, budget.trials),
            "epochs": _of(epochs, budget.epochs),
            "metric": objective.words,
        }
        if best:
            row |= {
                "best": number(objective.score(best[0].score)),
                "best trial": str(best[0].number),
            }
        if found is not None and found.best is not None and found.spread is not None:
            row |= {
                "best": number(found.best.values[0]),
                "best trial": str(found.best.number),
                RERUNS: f"{number(found.spread.mean)} ({found.seeds_text})",
            }
    return row


def _is_confirmed(found: Answer | None, confirm: Confirmation) -> bool:
    confirmed = None if found is None else found.confirmed
    return confirmed is not None and confirmed.unused.n >= confirm.unused


def _confirmation(database: Database, study: StudyRef) -> str:
    """Return the state of a confirmation that is not done."""
    reruns = with_reruns(database, study)[1:]
    with database.engine.connect() as connection:
        n = sum(n_at_work(connection, one.key) for one in reruns)
    return f"confirming, {n} running" if n else "not confirmed"


def _of(spent: int, budget: int | None) -> str:
    return str(spent) if budget is None else f"{spent} of {budget}"


def _epochs(n: int, last: int, *, is_utf: bool) -> str:
    """Return a bar of the epochs that a trial has finished, and their number."""
    filled = math.floor(EPOCH_BAR * min(n, last) / last)
    full, empty = "━╌" if is_utf else "=."
    return f"{full * filled}{empty * (EPOCH_BAR - filled)} {n}/{last}"


def _lines(console: Console, options: ConsoleOptions, part: RenderableType) -> list[list[Segment]]:
    return console.render_lines(part, options, pad=False)
