"""Which jobs a restart or a cancel takes, by the selector's own rules."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from opam_ci.clients.index.rows import AnyRow
from opam_ci.clients.index.schema import JOB_COLUMNS, JOBS
from opam_ci.clients.index.write import find_revision
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs
from opam_ci.core.jobs.outcome import FailureReason
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.selector import (
    TAKEN_SHOWN,
    JobSelector,
    RestartSelector,
    RestartWhich,
    Taken,
)
from opam_ci.core.jobs.summary import DECIDED, UNDECIDED, Standing

Candidate = AnyRow
"""The columns of a job that decide whether it is taken."""

_CANDIDATE = (
    *JOB_COLUMNS, JOBS.c.id, JOBS.c.name, JOBS.c.rank, JOBS.c.needs, JOBS.c.standing,
    JOBS.c.follows, JOBS.c.round, JOBS.c.cause, JOBS.c.failure_reason, JOBS.c.skip_reason,
    JOBS.c.started_at, JOBS.c.decided_at,
)  # fmt: skip

_NAMED = 10
"""Platforms that a refusal names."""

_LONGEST = 200
"""Characters of a job's id, or of a platform that does not exist, in a refusal."""


def candidates(connection: Connection, key: RevisionKey) -> Sequence[Candidate]:
    """Reads the jobs of a testing, its analysis apart, in the order in which they run."""
    query = (
        select(*_CANDIDATE)
        .where(
            JOBS.c.revision_id == find_revision(connection, key),
            JOBS.c.kind != JobKind.ANALYSIS,
        )
        .order_by(JOBS.c.rank, JOBS.c.id)
    )
    return connection.execute(query).all()


def _matcher(selector: JobSelector) -> Callable[[Candidate], bool]:
    """Returns the selector's own rule, made fast for many ids and many jobs."""
    ids = frozenset(selector.jobs)
    others = selector.model_copy(update={"jobs": ()})

    def matches(row: Candidate) -> bool:
        # Not validated: these are fifty thousand rows, and our own.
        job = Job.model_construct(
            platform=row.platform, package=row.package, kind=JobKind(row.kind), revdep=row.revdep
        )
        return (not ids or row.name in ids) and others.narrows_to(job)

    return matches


def restarted(
    rows: Sequence[Candidate], given: ChangeJobs, selector: RestartSelector
) -> tuple[list[int], Taken]:
    """Selects what a restart takes, and what it took before.

    - Jobs whose outcome only followed from a job that is taken, or that were cancelled and need
      it, are taken with it.
    - The job that a taken one needs is taken with it where the CI lost it.
    - All builds of a package with the verdict "installable nowhere" are taken with any of them.
    - Jobs that wait for their retry start at once; the workflow that runs them does that.

    Args:
        rows: All jobs of the testing, in the order in which they run.
        given: The round of the restart.
        selector: Which to begin with.

    Returns:
        Ids of jobs that are to be queued, in that order: what others need comes before them. And
        the result of the restart.
    """
    matches = _matcher(selector)
    standings = set(selector.standings)
    if selector.takes_retrying:
        standings.add(Standing.RETRYING)
    chosen = [
        row
        for row in rows
        if (row.standing in standings or row.skip_reason in selector.skips)
        and selector.cause in {None, row.cause}
        and matches(row)
    ]
    can_run_again = {row.id for row in rows if row.round < given.round and row.standing in DECIDED}
    related = _Related(row for row in rows if row.id in can_run_again)
    pending = [row for row in rows if row.round == given.round]
    pending += [row for row in chosen if row.id in can_run_again]
    taken: dict[str, Candidate] = {}
    while pending:
        row = pending.pop()
        if row.name not in taken:
            taken[row.name] = row
            pending += related.to(row)
    found = sorted(taken.values(), key=lambda row: (row.rank, row.needs in taken, row.id))
    ids = [row.id for row in found if row.id in can_run_again]
    found += [row for row in chosen if row.standing == Standing.RETRYING and row.name not in taken]
    which = "decided" if selector.which is RestartWhich.ALL else selector.which.value
    wanted = which if selector.cause is None else f"{which}({selector.cause})"
    result = _result(given, rows, found, wanted, _advice(selector))
    return ids, _timed(result, found) if given.preview else result


def cancelled(
    rows: Sequence[Candidate], given: ChangeJobs, at: datetime
) -> tuple[list[int], Taken]:
    """Selects what a cancel takes, and what it took before.

    Args:
        rows: All jobs of the testing.
        given: Which.
        at: When the cancel was requested: jobs that it cancelled have this time.

    Returns:
        Ids of queued jobs; running ones are left to the workflow that runs them. And the result
        of the cancel.
    """
    matches = _matcher(given.selector)
    found = [
        row
        for row in rows
        if matches(row)
        and (
            row.standing in UNDECIDED
            or (row.standing == Standing.CANCELLED and row.decided_at == at)
        )
    ]
    ids = [row.id for row in found if row.standing == Standing.QUEUED]
    return ids, _result(given, rows, found, "undecided", "")


def _timed(result: Taken, taken: Iterable[Candidate]) -> Taken:
    """Adds how long the jobs ran when they last ended; once they are queued that is not known."""
    ran = [
        # Clocks may differ.
        max((row.decided_at - row.started_at).total_seconds(), 0.0)
        for row in taken
        if row.decided_at is not None and row.started_at is not None
    ]
    times = {"total_seconds": sum(ran), "longest_seconds": max(ran, default=0.0)}
    return result.model_copy(update=times)


class _Related:
    """The jobs that are taken with another one."""

    def __init__(self, decided: Iterable[Candidate]) -> None:
        self._dependents: dict[str, list[Candidate]] = defaultdict(list)
        self._lost: dict[str, Candidate] = {}
        self._nowhere: dict[str, list[Candidate]] = defaultdict(list)
        for row in decided:
            if row.needs is not None and (row.follows or row.standing == Standing.CANCELLED):
                self._dependents[row.needs].append(row)
            if row.standing in {Standing.ERRORED, Standing.CANCELLED}:
                self._lost[row.name] = row
            if row.failure_reason == FailureReason.NOT_INSTALLABLE:
                self._nowhere[row.package].append(row)

    def to(self, row: Candidate) -> Iterator[Candidate]:
        yield from self._dependents.get(row.name, ())
        if row.needs in self._lost:
            yield self._lost[row.needs]
        if row.kind == JobKind.BUILD:
            yield from self._nowhere.get(row.package, ())


def _result(
    given: ChangeJobs,
    rows: Sequence[Candidate],
    taken: Sequence[Candidate],
    wanted: str,
    advice: str,
) -> Taken:
    """Counts the jobs that are taken, or explains why there are none.

    Args:
        given: Which jobs of which testing were wanted.
        rows: All its jobs.
        taken: In the order in which they are to be named.
        wanted: Which jobs are taken, such as `errored`.
        advice: What to do if jobs match that have another standing.
    """
    if taken:
        return Taken(
            jobs=len(taken),
            by_platform=dict(sorted(Counter(row.platform for row in taken).items())),
            first=tuple(row.name for row in taken[:TAKEN_SHOWN]),
        )
    key = given.key
    title = key.repository + (f"#{key.number}" if key.branch is None else f":{key.branch}")
    matches = _matcher(given.selector)
    found = [row for row in rows if matches(row)]
    if not rows:
        refusal = f"{title} has no jobs yet: wait until its change is analysed"
    elif found:
        counts = Counter(row.standing for row in found)
        others = ", ".join(f"{counts[each]} {each}" for each in Standing if counts[each])
        refusal = f"{title} has no {wanted} job that matches; it has: {others}"
        if len(found) == 1:
            [row] = found
            already = "" if row.standing in DECIDED else " already"
            refusal = f"{row.name[:_LONGEST]} is not {wanted}: it is {row.standing}{already}"
        refusal += advice
    else:
        refusal = f"{title} has no job that matches; {_instead(rows, given.selector)}"
    return Taken(refusal=refusal)


def _advice(selector: RestartSelector) -> str:
    """Returns how other jobs can be restarted."""
    match selector.which:
        case RestartWhich.ERRORED if selector.cause is None:
            return ". Decided jobs are restarted with --failed or --all"
        case RestartWhich.ERRORED | RestartWhich.FAILED | RestartWhich.STOPPED:
            return ". All decided jobs are restarted with --all"
        case RestartWhich.ALL:
            return ". Jobs are restarted once they are decided"


def _instead(rows: Iterable[Candidate], selector: JobSelector) -> str:
    platforms = sorted({row.platform for row in rows if row.platform})
    if selector.platform is None or selector.platform in {"", *platforms}:
        return "list its jobs with `opam-ci status`"
    named = ", ".join(platforms[:_NAMED]) or "none"
    if len(platforms) > _NAMED:
        named += f", and {len(platforms) - _NAMED} more"
    return f"it has none on {selector.platform[:_LONGEST]!r}, its platforms are: {named}"
