"""The matrix of a head as pages lay it out: by platform for few packages, by package for many."""

from collections.abc import Iterable
from typing import NamedTuple

from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.model import Cell, Matrix, MatrixColumn, MatrixRow
from opam_ci.web.glyphs import GLYPHS

_FEW_PACKAGES = 3
"""Packages up to which each has a table of its own, with a row for each platform."""

_FEW_COLUMNS = 6
"""Columns up to which all packages share a table with all of them."""

_CELLS = 2000
"""Cells of the other layout at most: a passed one takes 40 bytes of a page, another one 250."""

_RANKS = {standing: rank for rank, standing in enumerate(GLYPHS)}


class Line(NamedTuple):
    """A row of a table.

    Attributes:
        name: Its platform or package.
        cells: One for each column; None for no such job.
        filter: Lists its jobs.
    """

    name: str
    cells: tuple[Cell | None, ...]
    filter: str


class MatrixTable(NamedTuple):
    """A table of the matrix.

    Attributes:
        package: Which it is about; None for all.
        columns: Heads of its columns.
        lines: Its rows.
        green: Number of further rows in which all passed.
        more: Number of further rows.
        is_dense: Whether it has many columns, whose heads are upright then.
    """

    package: str | None
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    green: int = 0
    more: int = 0
    is_dense: bool = False


class Exceptional(NamedTuple):
    """A cell in which not everything passed, in the list for narrow screens.

    Attributes:
        cell: The cell.
        package: Its package.
        place: Its platform and kind.
    """

    cell: Cell
    package: str
    place: str


def tables(matrix: Matrix) -> tuple[MatrixTable, ...]:
    """Returns the tables of a matrix."""
    if len(matrix.rows) + matrix.green + matrix.more <= _FEW_PACKAGES:
        return tuple(_of_package(matrix, row) for row in matrix.rows)
    if len(matrix.columns) <= _FEW_COLUMNS:
        return (_of_jobs(matrix),)
    return (_of_packages(matrix),)


def exceptions(matrix: Matrix, limit: int = 40) -> tuple[Exceptional, ...]:
    """Returns the cells in which not everything passed, the worst first."""
    found = [
        Exceptional(cell, row.package, _place(column))
        for row in matrix.rows
        for column, cell in zip(matrix.columns, row.cells, strict=True)
        if cell is not None and cell.standing is not Standing.PASSED
    ]
    return tuple(sorted(found, key=lambda each: _RANKS[each.cell.standing])[:limit])


def _of_package(matrix: Matrix, row: MatrixRow) -> MatrixTable:
    """A row for each platform, a column for each kind; the green ones are counted only."""
    kinds = tuple(kind for kind in JobKind if any(each.kind is kind for each in matrix.columns))
    cells = {
        (column.platform, column.kind): cell
        for column, cell in zip(matrix.columns, row.cells, strict=True)
    }
    lines = []
    green = 0
    for platform in dict.fromkeys(each.platform for each in matrix.columns):
        found = tuple(cells.get((platform, kind)) for kind in kinds)
        real = [each for each in found if each is not None]
        if not real:
            continue
        is_green = all(each.standing is Standing.PASSED for each in real)
        green += is_green
        lines.append((is_green, Line(platform or "repository", found, _at(row, platform))))
    shown = sorted(lines, key=lambda each: each[0])
    few = len(shown) <= 12  # noqa: PLR2004 - a table of a dozen rows is read at a glance
    return MatrixTable(
        package=row.package,
        columns=tuple(kinds),
        lines=tuple(line for is_green, line in shown if few or not is_green),
        green=0 if few else green,
    )


def _of_jobs(matrix: Matrix) -> MatrixTable:
    """A row for each package, a column for each platform and kind."""
    return MatrixTable(
        package=None,
        columns=tuple(_place(each) for each in matrix.columns),
        lines=tuple(Line(row.package, row.cells, row.filter) for row in matrix.rows),
        green=matrix.green,
        more=matrix.more,
    )


def _place(column: MatrixColumn) -> str:
    return " ".join(filter(None, (column.kind, column.platform)))


def _of_packages(matrix: Matrix) -> MatrixTable:
    """A row for each package, a column for each platform, all kinds of jobs in one cell."""
    platforms = tuple(dict.fromkeys(each.platform for each in matrix.columns))
    rows = matrix.rows[: max(_CELLS // max(len(platforms), 1), 1)]
    lines = []
    for row in rows:
        by_platform: dict[str, list[Cell]] = {platform: [] for platform in platforms}
        for column, cell in zip(matrix.columns, row.cells, strict=True):
            if cell is not None:
                by_platform[column.platform].append(cell)
        found = tuple(_merged(by_platform[platform], _at(row, platform)) for platform in platforms)
        lines.append(Line(row.package, found, row.filter))
    return MatrixTable(
        package=None,
        columns=tuple(platform or "repository" for platform in platforms),
        lines=tuple(lines),
        green=matrix.green,
        more=matrix.more + len(matrix.rows) - len(rows),
        is_dense=True,
    )


def _merged(cells: Iterable[Cell], of_all: str) -> Cell | None:
    found = sorted(cells, key=lambda cell: _RANKS[cell.standing])
    if len(found) <= 1:
        return found[0] if found else None
    worst = found[0].standing
    number = sum(cell.number for cell in found if cell.standing is worst)
    total = sum(cell.total for cell in found)
    return Cell(standing=worst, number=number, total=total, job=None, filter=of_all)


def _at(row: MatrixRow, platform: str) -> str:
    return f"{row.filter} platform:{platform}" if platform else row.filter
