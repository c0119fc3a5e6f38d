"""Queries for the causes of a head: groups, cascades, and where else they are seen."""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, and_, distinct, exists, func, select

from opam_ci.clients.index.engine import portions
from opam_ci.clients.index.filters import CURRENT, revision_condition
from opam_ci.clients.index.page_filters import SUBJECT, roots
from opam_ci.clients.index.page_testing import WHY, Testing
from opam_ci.clients.index.rows import AnyRow, job_status
from opam_ci.clients.index.schema import HEADS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.jobs.job import REVDEP_KINDS
from opam_ci.core.jobs.summary import JobStatus, Standing
from opam_ci.core.pages.causes import (
    Branch,
    Folded,
    GroupKey,
    Part,
    Place,
    explained,
    fold,
    rationale,
)
from opam_ci.core.pages.filter import PageFilter
from opam_ci.core.pages.model import (
    CAUSES_SHOWN,
    CauseGroup,
    Causes,
    JobRef,
    Linked,
    RevdepRoot,
)
from opam_ci.core.text.result import reason_line

_OTHERS = 1000
"""Newest testings of open pull requests that are searched for the same causes."""


def read_causes(connection: Connection, testing: Testing) -> Causes:
    """Reads what a page shows of the groups."""
    folded = _folded(connection, testing.id)
    ordered = folded.ordered()
    shown = ordered[:CAUSES_SHOWN]
    first = _first(connection, testing.id, shown, folded)
    rows = _rows(connection, [number for number, _ in first.values()])
    keys = sorted({group.key for group in shown})
    before = _known(connection, testing.previous_id, keys)
    others = open_heads_with(connection, testing.pull_request_id, keys)
    more = ordered[CAUSES_SHOWN:]
    return Causes(
        groups=tuple(
            _cause_group(group, folded, rows[first[group][0]], packages=first[group][1]).model_copy(
                update={
                    "also_in": others[group.key],
                    "new": None if before is None else group.key not in before,
                }
            )
            for group in shown
        ),
        more=len(more),
        more_jobs=sum(folded.jobs[each] + folded.cascades[each] for each in more),
    )


def open_heads_with(
    connection: Connection, pull_request_id: int, keys: Iterable[str]
) -> dict[str, int]:
    """Counts other open pull requests whose newest testing has jobs of a group, by its key."""
    keys = sorted(keys)
    if not keys:
        return {}
    heads = (
        select(REVISIONS.c.id)
        .select_from(HEADS)
        .where(revision_condition(CURRENT), PULL_REQUESTS.c.id != pull_request_id)
    )
    newest = heads.order_by(REVISIONS.c.id.desc()).limit(_OTHERS).cte("newest")
    numbers = [
        func.count().filter(
            exists().where(JOBS.c.revision_id == newest.c.id, JOBS.c.cause_group == key)
        )
        for key in keys
    ]
    found = connection.execute(select(*numbers).select_from(newest)).one()
    return dict(zip(keys, found, strict=True))


def revdep_roots(connection: Connection, revision_id: int) -> tuple[tuple[RevdepRoot, ...], int]:
    """Reads the failures of reverse dependencies by their root, and the number of further ones."""
    keys = (JOBS.c.cause_group, JOBS.c.blame)
    number, first = func.count().label("number"), func.min(JOBS.c.id).label("first")
    query = select(*keys, number, first).where(
        JOBS.c.revision_id == revision_id,
        JOBS.c.cause_group.is_not(None),
        JOBS.c.standing == Standing.FAILED,
        JOBS.c.revdep.is_not(None),
    )
    query = query.group_by(*keys).order_by(number.desc(), JOBS.c.cause_group)
    found = connection.execute(query).all()
    shown = found[:CAUSES_SHOWN]
    rows = _rows(connection, [row.first for row in shown])
    failed = PageFilter(standings=(Standing.FAILED,), kinds=tuple(sorted(REVDEP_KINDS)))
    return tuple(
        RevdepRoot(
            root=row.blame,
            key=row.cause_group,
            line=_line(rows[row.first]),
            jobs=Linked(
                number=row.number,
                filter=failed.model_copy(
                    update={"groups": (row.cause_group,)}
                    if row.blame is None
                    else {"blames": (row.blame,)}
                ).text,
            ),
        )
        for row in shown
    ), len(found) - len(shown)


def _folded(connection: Connection, revision_id: int) -> Folded:
    keys = (JOBS.c.cause_group, JOBS.c.standing, WHY.label("why"), JOBS.c.platform, JOBS.c.blame)
    query = select(*keys, func.count().label("number")).where(
        JOBS.c.revision_id == revision_id, JOBS.c.cause_group.is_not(None)
    )
    parts = [
        Part(_group(row), row.why, row.platform, row.blame, row.number)
        for row in connection.execute(query.group_by(*keys))
    ]
    blamed = {part.blame for part in parts if part.blame is not None}
    return fold(parts, _roots(connection, revision_id, blamed), _following(connection, revision_id))


def _roots(connection: Connection, revision_id: int, blamed: Collection[str]) -> dict[Place, str]:
    found: dict[Place, str] = {}
    for some in portions(sorted(blamed)):
        query = roots(revision_id).where(SUBJECT.in_(some))
        found |= {(platform, name): key for platform, name, key in connection.execute(query)}
    return found


def _following(connection: Connection, revision_id: int) -> dict[Branch, int]:
    """Counts jobs whose outcome only follows, by the group of the job that they need."""
    needed = JOBS.alias("needed")
    keys = (needed.c.cause_group, needed.c.standing, needed.c.platform, needed.c.blame)
    of_it = and_(needed.c.revision_id == JOBS.c.revision_id, needed.c.name == JOBS.c.needs)
    query = (
        select(*keys, func.count().label("number"))
        .select_from(JOBS.join(needed, of_it))
        .where(JOBS.c.revision_id == revision_id, JOBS.c.follows, needed.c.cause_group.is_not(None))
        .group_by(*keys)
    )
    return {(_group(row), row.platform, row.blame): row.number for row in connection.execute(query)}


def _first(
    connection: Connection, revision_id: int, groups: Sequence[GroupKey], folded: Folded
) -> dict[GroupKey, tuple[int, int]]:
    """Reads the id of the first job of each group, and the number of its packages."""
    keys = (JOBS.c.cause_group, JOBS.c.standing)
    numbers = (func.min(JOBS.c.id), func.count(distinct(SUBJECT)))
    query = select(*keys, *numbers).where(JOBS.c.revision_id == revision_id).group_by(*keys)
    queries = [query.where(JOBS.c.cause_group.in_(sorted({group.key for group in groups})))]
    # The rest of such a group is in the cascade of another one.
    queries += [
        query.where(
            JOBS.c.cause_group == group.key,
            JOBS.c.standing == group.standing,
            JOBS.c.platform.in_(folded.platforms[group]),
        )
        for group in groups
        if group in folded.partly
    ]
    return {
        GroupKey(key, Standing(standing)): (first, packages)
        for query in queries
        for key, standing, first, packages in connection.execute(query).all()
    }


def _known(
    connection: Connection, revision_id: int | None, keys: Collection[str]
) -> frozenset[str] | None:
    """Reads which groups a testing has; None without a testing."""
    if revision_id is None:
        return None
    query = select(JOBS.c.cause_group).distinct()
    query = query.where(JOBS.c.revision_id == revision_id, JOBS.c.cause_group.in_(keys))
    return frozenset(connection.scalars(query))


def _rows(connection: Connection, ids: Iterable[int]) -> dict[int, JobStatus]:
    found = connection.execute(select(JOBS).where(JOBS.c.id.in_(list(ids))))
    return {row.id: job_status(row) for row in found}


def _line(row: JobStatus) -> str:
    outcome = explained(row)
    return "" if outcome is None else reason_line(outcome)


def _cause_group(group: GroupKey, folded: Folded, row: JobStatus, *, packages: int) -> CauseGroup:
    own = PageFilter(standings=(group.standing,), groups=(group.key,))
    if group in folded.partly:
        own = own.model_copy(update={"platforms": tuple(sorted(folded.platforms[group]))})
    cascade = folded.cascades[group]
    outcome = explained(row)
    rule = "" if outcome is None or outcome.kind == "cancelled" else outcome.evidence.rule
    return CauseGroup(
        key=group.key,
        standing=group.standing,
        why=folded.why[group],
        line=_line(row),
        rule=rule,
        rationale=rationale(rule),
        jobs=Linked(number=folded.jobs[group], filter=own.text),
        packages=packages,
        platforms=tuple(sorted(folded.platforms[group])),
        first=job_ref(row),
        cascade=Linked(number=cascade, filter=PageFilter(cascades=(group.key,)).text)
        if cascade
        else None,
    )


def job_ref(row: JobStatus) -> JobRef:
    """Returns how a page links to a job."""
    return JobRef(
        id=row.job.id,
        title=row.job.title,
        platform=row.job.platform,
        standing=row.standing,
        log_key=row.log,
    )


def _group(row: AnyRow) -> GroupKey:
    return GroupKey(row.cause_group, Standing(row.standing))
