"""Lists on standard output: for people at a terminal of any width, and for tools in a pipe.

At a terminal, a list is a table. If the terminal is too narrow, columns are dropped, the least
important first, and if that is not enough, each row is a block of lines. Text is wrapped at words.
Nothing is ever truncated: the terminal wraps a word longer than a line, so that a whole name can be
copied.

In a pipe, the format is that of `gh`: a row a line, all columns, separated by tabs, without
headings or colour. rich respects `NO_COLOR` and `COLUMNS` at a terminal.
"""

import sys
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from opam_ci.core.printable import printable, readable

_UNLIMITED = 1_000_000
"""Width of an output that is not a terminal: more than any line has."""

_GAP = Text("  ")


class Column(NamedTuple):
    """A column of a list.

    Attributes:
        heading: Its heading.
        is_key: Whether it is part of the row's name: these cells begin a block.
        wraps: Least width in characters to which it is wrapped at words; None never wraps it.
        drop: Order in which columns are dropped: the lowest number first, 0 never.
        is_number: Whether its cells are aligned on the right.
    """

    heading: str
    is_key: bool = False
    wraps: int | None = None
    drop: int = 0
    is_number: bool = False


class Listing:
    """Rows under headings, for `Console.print`.

    Not rich's `Table`: that shrinks columns below the length of a word, and so breaks names.

    Args:
        columns: From left to right.
    """

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[tuple[Text, ...]] = []

    def add(self, *cells: str | Text) -> None:
        """Adds a row, a cell for each column; control characters are replaced by spaces."""
        self._rows.append(
            tuple(
                Text(printable(cell.plain), cell.style)
                if isinstance(cell, Text)
                else Text(printable(cell))
                for cell in cells
            )
        )

    def tab_separated(self) -> Iterator[str]:
        """Yields the rows in the format for tools."""
        for row in self._rows:
            yield "\t".join(cell.plain for cell in row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if widths := self._widths(options.max_width):
            yield from self._table(console, widths)
        else:
            for row in self._rows:
                yield from self._block(row, options.max_width)

    def _widths(self, width: int) -> dict[int, int]:
        """Returns the widths of the columns that fit, by index; empty if not all key columns do."""
        natural = [self._longest(index) for index in range(len(self._columns))]
        least = [
            natural[index]
            if column.wraps is None
            else max(min(natural[index], column.wraps), self._longest(index, words=True))
            for index, column in enumerate(self._columns)
        ]
        shown = list(range(len(self._columns)))
        droppable = (index for index in shown if self._columns[index].drop)
        for dropped in (None, *sorted(droppable, key=lambda index: self._columns[index].drop)):
            if dropped is not None:
                shown.remove(dropped)
            room = width - sum(least[index] for index in shown) - len(_GAP) * (len(shown) - 1)
            if room >= 0:
                break
        else:
            return {}
        widths = {}
        for index in shown:
            more = min(room, natural[index] - least[index])
            widths[index], room = least[index] + more, room - more
        return widths

    def _longest(self, index: int, *, words: bool = False) -> int:
        """Returns the width of a column's longest cell, or of the longest word in it."""
        cells = [self._columns[index].heading, *(row[index].plain for row in self._rows)]
        parts = (word for cell in cells for word in cell.split()) if words else cells
        return max(map(cell_len, parts), default=0)

    def _table(self, console: Console, widths: dict[int, int]) -> Iterator[Text]:
        headings = tuple(Text(column.heading, "bold") for column in self._columns)
        for row in (headings, *self._rows):
            cells = [
                row[index].wrap(
                    console, width, justify="right" if self._columns[index].is_number else "left"
                )
                for index, width in widths.items()
            ]
            for parts in zip_longest(*cells):
                line = _GAP.join(
                    part or Text(" " * width)
                    for part, width in zip(parts, widths.values(), strict=True)
                )
                line.rstrip()
                yield line

    def _block(self, row: tuple[Text, ...], width: int) -> Iterator[Text]:
        pairs = [pair for pair in zip(self._columns, row, strict=True) if pair[1]]
        keys = [cell for column, cell in pairs if column.is_key]
        line = _GAP.join(keys)
        yield from [line] if line.cell_len <= width else keys
        rest = Text("; ").join(
            Text.assemble(f"{column.heading}: ", cell)
            for column, cell in pairs
            if not column.is_key
        )
        # rich wraps inside long words too, or not at all.
        start = 0
        for words in textwrap.wrap(
            rest.plain, max(1, width - len(_GAP)), break_long_words=False, break_on_hyphens=False
        ):
            start = rest.plain.index(words, start)
            yield _GAP + rest[start : start + len(words)]


def output() -> Console:
    """Returns the console of standard output, of unlimited width if that is not a terminal."""
    if sys.stdout.isatty():
        return Console()
    # FORCE_COLOR, which many CIs set, does not make a pipe a terminal.
    return Console(width=_UNLIMITED, force_terminal=False)


def print_listing(listing: Listing) -> None:
    """Prints a list to standard output."""
    if sys.stdout.isatty():
        output().print(listing, soft_wrap=True)
        return
    for line in listing.tab_separated():
        typer.echo(line)


def print_text(text: str) -> None:
    """Prints a result that may cite what others wrote; a pipe gets it unchanged."""
    typer.echo(readable(text) if sys.stdout.isatty() else text)


def note(text: str) -> None:
    """Prints a line to standard error: standard output is for results only."""
    typer.echo(readable(text), err=True)
