"""Queries for the matrix of a head, and for its reverse dependencies."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, case, func, select

from opam_ci.clients.index.page_causes import revdep_roots
from opam_ci.clients.index.page_filters import page_condition
from opam_ci.clients.index.paging import Page, Place
from opam_ci.clients.index.rows import AnyRow
from opam_ci.clients.index.schema import JOBS
from opam_ci.core.jobs.job import BASE_KINDS, REVDEP_KINDS, JobKind, job_id
from opam_ci.core.jobs.outcome import SkipReason
from opam_ci.core.jobs.summary import JobCount, Standing, stopped
from opam_ci.core.pages.filter import PageFilter
from opam_ci.core.pages.model import (
    MATRIX_CELLS,
    MATRIX_ROWS,
    Cell,
    Linked,
    Matrix,
    MatrixColumn,
    MatrixRow,
    RevdepRow,
    Revdeps,
)
from opam_ci.core.text.status import WORST_FIRST

MATRIX_KINDS = (
    JobKind.LINT, JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS,
)  # fmt: skip
"""Kinds of jobs that have a column."""

_BADNESS = case(
    {standing.value: place for place, standing in enumerate(WORST_FIRST)}, value=JOBS.c.standing
)
_GREEN = WORST_FIRST.index(Standing.PASSED)


def read_matrix(connection: Connection, revision_id: int, tallies: Sequence[JobCount]) -> Matrix:
    """Reads the matrix of a testing.

    Args:
        connection: Where to read.
        revision_id: The testing.
        tallies: Numbers of its jobs.
    """
    of_it = (
        JOBS.c.revision_id == revision_id,
        JOBS.c.revdep.is_(None),
        JOBS.c.package != "",
        JOBS.c.kind.not_in(BASE_KINDS),
    )
    columns = _columns(tallies)
    most = min(MATRIX_ROWS, MATRIX_CELLS // max(1, len(columns)))
    worst = func.min(_BADNESS).label("worst")
    each = select(JOBS.c.package, worst).where(*of_it).group_by(JOBS.c.package).subquery()
    numbers = (
        func.count().over().label("total"),
        func.count().filter(each.c.worst == _GREEN).over().label("green"),
    )
    query = select(*each.c, *numbers).order_by(each.c.worst, each.c.package).limit(most)
    packages = connection.execute(query).all()
    total, green = (packages[0].total, packages[0].green) if packages else (0, 0)
    names = [row.package for row in packages if total <= most or row.worst < _GREEN]
    keys = (JOBS.c.package, JOBS.c.platform, JOBS.c.kind, JOBS.c.standing)
    cells = select(*keys, func.count().label("number")).where(*of_it, JOBS.c.package.in_(names))
    found: dict[tuple[str, str, str], dict[Standing, int]] = defaultdict(dict)
    for package, platform, kind, standing, number in connection.execute(
        cells.group_by(*keys)
    ).all():
        found[package, platform, kind][Standing(standing)] = number
    shown_green = 0 if total > most else green
    return Matrix(
        columns=columns,
        rows=tuple(_row(name, columns, found) for name in names),
        green=green - shown_green,
        more=total - (green - shown_green) - len(names),
    )


def _columns(tallies: Sequence[JobCount]) -> tuple[MatrixColumn, ...]:
    found = {(each.platform, each.kind) for each in tallies if each.kind in MATRIX_KINDS}
    ordered = sorted(found, key=lambda column: (column[0], MATRIX_KINDS.index(column[1])))
    return tuple(MatrixColumn(platform=platform, kind=kind) for platform, kind in ordered)


def _row(
    package: str,
    columns: Sequence[MatrixColumn],
    cells: Mapping[tuple[str, str, str], dict[Standing, int]],
) -> MatrixRow:
    places = ((column, (package, column.platform, column.kind)) for column in columns)
    made = tuple(
        _cell(package, column, cells[place]) if place in cells else None for column, place in places
    )
    return MatrixRow(
        package=package,
        worst=min((cell.standing for cell in made if cell is not None), key=WORST_FIRST.index),
        cells=made,
        filter=PageFilter(packages=(package,), kinds=MATRIX_KINDS).text,
    )


def _cell(package: str, column: MatrixColumn, numbers: dict[Standing, int]) -> Cell:
    worst = min(numbers, key=WORST_FIRST.index)
    total = sum(numbers.values())
    where = f"platform:{column.platform} " if column.platform else ""
    return Cell(
        standing=worst,
        number=numbers[worst],
        total=total,
        job=job_id(column.kind, column.platform, package) if total == 1 else None,
        # Thousands of these: the text of such a `PageFilter`, made faster.
        filter=f"{where}kind:{column.kind} package:{package}",
    )


def read_revdeps(
    connection: Connection, revision_id: int, tallies: Sequence[JobCount]
) -> Revdeps | None:
    """Reads the totals of a testing's reverse dependencies; None if it has none."""
    numbers: dict[Standing, int] = defaultdict(int)
    for each in tallies:
        if each.kind in REVDEP_KINDS:
            numbers[each.standing] += each.number
    if not numbers:
        return None

    def linked(*standings: Standing) -> Linked:
        kinds = tuple(sorted(REVDEP_KINDS))
        wanted = PageFilter(standings=standings, kinds=kinds)
        counted = standings or tuple(Standing)
        return Linked(number=sum(numbers[each] for each in counted), filter=wanted.text)

    why = (SkipReason.STOPPED_EARLY,)
    not_run = PageFilter(causes=why, kinds=tuple(sorted(REVDEP_KINDS)))
    roots, more = revdep_roots(connection, revision_id)
    return Revdeps(
        total=linked(),
        failed=linked(Standing.FAILED),
        errored=linked(Standing.ERRORED, Standing.RETRYING),
        passed=linked(Standing.PASSED),
        skipped=linked(Standing.SKIPPED),
        not_run=linked(Standing.QUEUED, Standing.RUNNING, Standing.CANCELLED),
        stopped=Linked(number=stopped(tallies), filter=not_run.text),
        roots=roots,
        more_roots=more,
    )


def revdep_rows(
    connection: Connection,
    wanted: PageFilter,
    place: Place,
    revision_id: int,
    previous_id: int | None,
) -> Page[RevdepRow]:
    """Reads one page of reverse dependencies, by name; the cursor is the last name."""
    worst = func.min(_BADNESS).label("worst")
    query = select(JOBS.c.revdep, worst, func.count().label("total")).where(
        page_condition(wanted, revision_id, previous_id), JOBS.c.revdep.is_not(None)
    )
    if place.after is not None:
        query = query.where(JOBS.c.revdep > place.after.replace("\0", ""))
    query = query.group_by(JOBS.c.revdep).order_by(JOBS.c.revdep).limit(place.limit + 1)
    found = connection.execute(query).all()
    names = [row.revdep for row in found[: place.limit]]
    counts = select(JOBS.c.revdep, _BADNESS.label("worst"), func.count().label("number")).where(
        page_condition(wanted, revision_id, previous_id), JOBS.c.revdep.in_(names)
    )
    numbers = {
        (row.revdep, row.worst): row.number
        for row in connection.execute(counts.group_by(JOBS.c.revdep, JOBS.c.standing))
    }
    items = tuple(_revdep_row(row, numbers, wanted) for row in found[: place.limit])
    return Page(items, names[-1] if len(found) > place.limit else None)


def _revdep_row(row: AnyRow, numbers: dict[tuple[str, int], int], wanted: PageFilter) -> RevdepRow:
    return RevdepRow(
        revdep=row.revdep,
        worst=WORST_FIRST[row.worst],
        number=numbers[row.revdep, row.worst],
        total=row.total,
        filter=wanted.model_copy(update={"revdeps": (row.revdep,)}).text,
    )
