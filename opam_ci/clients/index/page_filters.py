"""Conditions on jobs of a testing, from the filter of a page."""

from collections.abc import Callable

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    true,
    tuple_,
)

from opam_ci.clients.index.schema import ATTEMPTS, JOBS
from opam_ci.clients.index.standings import WHY
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.causes import ROOT_KINDS
from opam_ci.core.pages.filter import PageFilter
from opam_ci.core.pages.model import ChangeClass

SUBJECT = func.coalesce(JOBS.c.revdep, JOBS.c.package)
"""The package that a job builds."""


def roots(revision_id: int) -> Select[str, str, str]:
    """Makes the query for the failed builds of a testing: platform, package, key of the group."""
    return (
        select(JOBS.c.platform, SUBJECT, func.min(JOBS.c.cause_group))
        .where(
            JOBS.c.revision_id == revision_id,
            JOBS.c.cause_group.is_not(None),
            JOBS.c.standing == Standing.FAILED,
            JOBS.c.blame.is_(None),
            JOBS.c.kind.in_(ROOT_KINDS),
        )
        .group_by(JOBS.c.platform, SUBJECT)
    )


def page_condition(
    wanted: PageFilter, revision_id: int, previous_id: int | None
) -> ColumnElement[bool]:
    """Makes the condition on jobs.

    Args:
        wanted: The filter.
        revision_id: The testing.
        previous_id: That of the previous head, None if there is none.
    """
    lost = JOBS.c.id.in_(
        select(ATTEMPTS.c.job_id).where(ATTEMPTS.c.incident_id.in_(map(int, wanted.incidents)))
    )
    conditions = [
        _any(JOBS.c.standing.__eq__, wanted.standings),
        _any(JOBS.c.kind.__eq__, wanted.kinds),
        _any(lambda name: _matches(JOBS.c.platform, name), wanted.platforms),
        _any(lambda name: _matches(JOBS.c.worker, name), wanted.workers),
        _any(lambda name: or_(named(JOBS.c.package, name), named(JOBS.c.revdep, name)),
             wanted.packages),
        _any(lambda name: named(JOBS.c.revdep, name), wanted.revdeps),
        _any(lambda name: named(JOBS.c.blame, name), wanted.blames),
        _any(WHY.__eq__, wanted.causes),
        _any(lambda key: _in_group(key, revision_id), wanted.groups),
        _any(lambda key: _in_cascade(key, revision_id), wanted.cascades),
        *(JOBS.c.name.icontains(word, autoescape=True) for word in wanted.words),
    ]  # fmt: skip
    if wanted.incidents:
        conditions.append(lost)
    here = JOBS.c.revision_id == revision_id
    if wanted.changes:
        changes = [_change(each, revision_id, previous_id) for each in wanted.changes]
        return and_(or_(*changes), *conditions)
    return and_(here, *conditions)


def _any(
    make: Callable[[str], ColumnElement[bool]], values: tuple[str, ...]
) -> ColumnElement[bool]:
    return or_(*map(make, values)) if values else true()


def _matches(column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    if "*" not in pattern:
        return column == pattern
    escaped = pattern.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return column.ilike(escaped.replace("*", "%"), escape="\\")


def named(column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    """Makes the condition that a column has a package of this name, with or without a version."""
    exact = _matches(column, pattern)
    return exact if "." in pattern else or_(exact, _matches(column, f"{pattern}.*"))


def _in_group(key: str, revision_id: int) -> ColumnElement[bool]:
    """Whether a job is in a group, and not in the cascade of another one."""
    of_others = select(*list(roots(revision_id).subquery().c)[:2])
    folded = and_(JOBS.c.blame.is_not(None), tuple_(JOBS.c.platform, JOBS.c.blame).in_(of_others))
    return and_(JOBS.c.cause_group == key, not_(folded))


def _in_cascade(key: str, revision_id: int) -> ColumnElement[bool]:
    """Whether a job did not pass only since one of a group did not."""
    needed = JOBS.alias("needed")
    found = roots(revision_id).subquery()
    platform, package, group = found.c
    ours = select(platform, package).where(group == key)
    theirs = select(platform, package)

    def folded(jobs: FromClause, others: Select[str, str]) -> ColumnElement[bool]:
        place = tuple_(jobs.c.platform, jobs.c.blame)
        return and_(jobs.c.blame.is_not(None), place.in_(others))

    own = and_(needed.c.cause_group == key, not_(folded(needed, theirs)))
    root = and_(
        needed.c.revision_id == revision_id,
        needed.c.name == JOBS.c.needs,
        or_(own, folded(needed, ours)),
    )
    return or_(folded(JOBS, ours), and_(JOBS.c.follows, exists().where(root)))


def _change(change: ChangeClass, revision_id: int, previous_id: int | None) -> ColumnElement[bool]:
    """Makes the condition of a class of changes; that of jobs which are gone is on other jobs."""
    failed = JOBS.c.standing == Standing.FAILED
    before = failed_before(previous_id)
    conditions: tuple[ColumnElement[bool], ...]
    match change:
        case "fixed":
            conditions = (JOBS.c.standing == Standing.PASSED, before)
        case "newly-failing":
            conditions = (failed, not_(before))
        case "still-failing":
            conditions = (failed, before)
        case "errored":
            conditions = (JOBS.c.standing == Standing.ERRORED,)
        case "new":
            conditions = (missing_in(previous_id),)
        case "gone":
            of_other = JOBS.c.revision_id == previous_id
            return false() if previous_id is None else and_(of_other, missing_in(revision_id))
    return and_(JOBS.c.revision_id == revision_id, *conditions)


def failed_before(revision_id: int | None) -> ColumnElement[bool]:
    """Makes the condition that a testing's job of this id failed; None has no jobs.

    It is a value of each job, and no join, as in `missing_in`: PostgreSQL hashes the names once,
    whatever it believes of the number of jobs. Until a new head is in its statistics, that is one,
    and a join compares each job with each.
    """
    failed = JOBS.alias("failed")
    return JOBS.c.name.in_(
        select(failed.c.name).where(
            failed.c.revision_id == revision_id, failed.c.standing == Standing.FAILED
        )
    ).is_(true())


def missing_in(revision_id: int | None) -> ColumnElement[bool]:
    """Makes the condition that a testing has no job of this id; None has no jobs."""
    other = JOBS.alias("other")
    return JOBS.c.name.not_in(select(other.c.name).where(other.c.revision_id == revision_id))
