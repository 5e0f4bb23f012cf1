"""Tables of reports, and of terminals of any width.

A table keeps all its columns where there is room. In a narrower terminal, headings wrap between
words, then the cells of foldable columns wrap, then columns are dropped, the least important
first. The first column identifies the row, and is never dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import HEAVY_HEAD, Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000
"""A terminal width, in characters, that fits any table."""


@dataclass(frozen=True, kw_only=True)
class FittedTable:
    """A table of plain text, without markup. Columns are identified by their headings."""

    rows: Sequence[Mapping[str, str]]
    """Cells by column; all rows have the same columns, in the same order."""
    texts: Sequence[str] = ()
    """Left-aligned columns, besides the first; the others are right-aligned."""
    foldable: Sequence[str] = ()
    """Columns whose cells may wrap between words."""
    droppable: Sequence[str] = ()
    """Columns that may be dropped, in this order; a table need not have all of them."""
    title: str = ""
    box: Box | None = HEAVY_HEAD

    @property
    def columns(self) -> Sequence[str]:
        """The headings; empty without rows."""
        return list(self.rows[0]) if self.rows else []

    def is_text(self, column: str) -> bool:
        """Return whether the column is left-aligned."""
        return column in (self.columns[0], *self.texts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="bold")
        widths = {name: self._least(name) for name in self.columns}
        droppable = list(self.droppable)
        while (room := options.max_width - self._measured(console, options, widths)) < 0:
            if not droppable:
                break
            widths.pop(droppable.pop(0), None)
        yield self._table(self._filled(widths, room))

    def fits(self, console: Console, options: ConsoleOptions) -> bool:
        """Return whether there is room for all columns."""
        widths = {name: self._least(name) for name in self.columns}
        return self._measured(console, options, widths) <= options.max_width

    def _measured(
        self, console: Console, options: ConsoleOptions, widths: Mapping[str, int]
    ) -> int:
        """Return the width of the whole table, including its borders."""
        unbounded = options.update(width=UNBOUNDED)
        return Measurement.get(console, unbounded, self._table(widths)).maximum

    def _filled(self, widths: Mapping[str, int], room: int) -> Mapping[str, int]:
        """Return the widths with `room` given to wrapped columns, the shortest first.

        A negative `room` is taken from the first column.
        """
        filled = dict(widths)
        if room < 0:
            filled[self.columns[0]] = max(filled[self.columns[0]] + room, 1)
        for whole in (self._cells, self._texts):  # wrapped headings read better than cells
            lengths = {name: max(map(cell_len, (*whole(name), ""))) for name in widths}
            for name in sorted(widths, key=lengths.__getitem__):
                more = lengths[name] - filled[name]
                if name in self.foldable:
                    more = min(more, room)
                if 0 < more <= room:
                    filled[name] += more
                    room -= more
        return filled

    def _table(self, widths: Mapping[str, int]) -> Table:
        table = Table(box=self.box, pad_edge=self.box is not None)
        for name, width in widths.items():
            table.add_column(
                Text(name),
                width=width,
                justify="left" if self.is_text(name) else "right",
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*(Text(row[name]) for name in widths))
        return table

    def _cells(self, name: str) -> Sequence[str]:
        return [row[name] for row in self.rows]

    def _texts(self, name: str) -> Sequence[str]:
        return [name, *self._cells(name)]

    def _least(self, name: str) -> int:
        """Return the least width at which no word breaks, and only foldable cells wrap."""
        foldable = self._texts(name) if name in self.foldable else [name]
        words = [word for text in foldable for word in text.split()]
        return max(map(cell_len, words if name in self.foldable else (*words, *self._cells(name))))
