"""Choices of trials in tables: a column for each one that differs, the others in one line."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from search.reporting.fitted_table import FittedTable
from search.study.space import Value, params_text, rounded

DIGITS = 3
"""Significant digits of a number in a column."""


def differing(trials: Collection[FrozenTrial]) -> list[str]:
    """Return the names of the choices that are not the same in all of the trials."""
    return [name for name in _names(trials) if len(_values(trials, name)) > 1]


def choices_text(trial: FrozenTrial, names: Collection[str]) -> str:
    """Return the named choices of the trial, those that it has, as in cells."""
    return " ".join(f"{name}={cell(trial.params[name])}" for name in names if name in trial.params)


def cell(value: Value | None) -> str:
    """Return a value as the text of a cell; empty for None."""
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return "" if value is None else rounded(value)


def plain(value: Value | None) -> Value | None:
    """Return a value for a chart or a table that sorts: a number with few digits, or text."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, int) and not isinstance(value, bool) else cell(value)


@dataclass(frozen=True, kw_only=True)
class ChoicesTable:
    """A table with a row for each trial.

    What all trials have in common stands in a line above it. Each other choice has a column, or all
    of them share one if there is no room for that.
    """

    title: str
    text: str = ""
    """A line above the table; empty for none."""
    trials: Sequence[FrozenTrial]
    rows: Sequence[Mapping[str, str]]
    """The first cells of each trial's row."""
    droppable: Sequence[str] = ()
    """As for `FittedTable`."""

    @property
    def common(self) -> str:
        """The choices that are the same in all of the trials."""
        if len(self.trials) < 2:
            return ""
        names = set(_names(self.trials)) - set(self._own)
        first = self.trials[0].params
        return params_text({name: first[name] for name in first if name in names})

    @property
    def above(self) -> str:
        """What stands above the table, as one paragraph."""
        common = f"All: {self.common}." if self.common else ""
        return " ".join(filter(None, [self.text, common]))

    @property
    def table(self) -> FittedTable:
        """The table with a column for each choice that differs."""
        return FittedTable(
            rows=[
                {**row, **{self._title(name): cell(trial.params.get(name)) for name in self._own}}
                for row, trial in zip(self.rows, self.trials, strict=True)
            ],
            texts=[self._title(name) for name in self._own],
            droppable=self.droppable,
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.title, style="bold")
        if self.text:
            yield Text(self.text)
        if self.common:
            yield Text(f"All: {self.common}")
        table = self.table
        if not table.fits(console, options):
            rows = [
                {**row, "choices": self.own_choices(trial)}
                for row, trial in zip(self.rows, self.trials, strict=True)
            ]
            table = replace(
                table,
                rows=rows,
                texts=["choices"],
                foldable=["choices"],
                droppable=[*self.droppable, "choices"],
            )
        yield table

    def own_choices(self, trial: FrozenTrial) -> str:
        """Return the trial's choices that not all of the trials have in common."""
        return choices_text(trial, self._own)

    def _title(self, name: str) -> str:
        """Return the column of a choice, which may be called like one of the others."""
        return f"choice {name}" if any(name in row for row in self.rows) else name

    @property
    def _own(self) -> list[str]:
        """The choices that have a column."""
        return differing(self.trials) if len(self.trials) > 1 else _names(self.trials)


def _names(trials: Collection[FrozenTrial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.params))


def _values(trials: Collection[FrozenTrial], name: str) -> set[str]:
    return {repr(trial.params.get(name)) for trial in trials}
