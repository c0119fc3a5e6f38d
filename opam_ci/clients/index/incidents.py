"""Incidents in the index, written together with the faults that they consist of."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    distinct,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)

from opam_ci.clients.index.engine import Connected, lock, portions, reading, writing
from opam_ci.clients.index.filters import CURRENT, equal, revision_condition
from opam_ci.clients.index.paging import Page, page
from opam_ci.clients.index.paging import Place as ListPlace
from opam_ci.clients.index.rows import AnyRow, job_of, revision_of
from opam_ci.clients.index.schema import (
    ATTEMPTED,
    ATTEMPTS,
    INCIDENTS,
    JOB_COLUMNS,
    JOBS,
    KEY_COLUMNS,
    PULL_REQUESTS,
    REVISIONS,
)
from opam_ci.core.incidents.grouping import GAP, Span, joined, place_of
from opam_ci.core.incidents.model import HitJob, Incident, Place
from opam_ci.core.incidents.verdicts import REFUTED_BY
from opam_ci.core.jobs.outcome import OWN_LIMIT_RULES, Cause, Evidence
from opam_ci.core.jobs.summary import UNDECIDED, Standing
from opam_ci.core.model import Frozen

_LOCK = 7_263_519_005
"""Id of the lock for making incidents, so that none is made twice."""


class IncidentFilter(Frozen):
    """Which incidents; a field without a value matches all.

    Attributes:
        is_open: Whether it is not resolved.
        cause: Cause of its faults.
        pool: Only of this pool.
        worker: Only of this worker.
        least_faults: With at least so many faults; one alone is hardly an incident.
        since: Last seen at this time or later.
    """

    is_open: bool | None = None
    cause: Cause | None = None
    pool: str | None = None
    worker: str | None = None
    least_faults: int = 1
    since: AwareDatetime | None = None


_EVERY_INCIDENT = IncidentFilter()
_START = ListPlace()


HIT_BY_INCIDENTS = ATTEMPTED.join(INCIDENTS, ATTEMPTS.c.incident_id == INCIDENTS.c.id)
"""Faults, each joined with its incident and all that it belongs to."""


def is_still_errored() -> ColumnElement[bool]:
    """Makes the condition that a job of a current head is errored by the incident of its fault."""
    return and_(
        JOBS.c.standing == Standing.ERRORED,
        JOBS.c.cause == INCIDENTS.c.cause,
        # Faults of later rounds belong to later incidents.
        or_(ATTEMPTS.c.round == JOBS.c.round, JOBS.c.round == 0),
        revision_condition(CURRENT),
    )


def attach(connection: Connection, job_ids: Sequence[int]) -> tuple[int, ...]:
    """Adds the faults of some jobs that have no incident yet to an incident, existing or new.

    Returns:
        The open incidents of all faults of these jobs, also of earlier ones: a repeated call
        returns the same.
    """
    lock(connection, _LOCK)
    loose: dict[str, list[Any]] = defaultdict(list)
    for some in portions(job_ids):
        query = (
            select(ATTEMPTS.c.id, ATTEMPTS.c.cause, ATTEMPTS.c.ended_at, ATTEMPTS.c.outcome)
            .where(
                ATTEMPTS.c.job_id.in_(some),
                ATTEMPTS.c.standing == Standing.ERRORED,
                ATTEMPTS.c.cause.is_not(None),
                ATTEMPTS.c.incident_id.is_(None),
            )
            .order_by(ATTEMPTS.c.ended_at)
        )
        for row in connection.execute(query):
            # A limit of the job's own cgroup is the job's fault: nothing of the CI is broken.
            if row.outcome.evidence.rule not in OWN_LIMIT_RULES:
                loose[row.cause].append(row)
    for cause, faults in sorted(loose.items()):
        _attach_cause(connection, cause, faults)
    found: set[int] = set()
    for some in portions(job_ids):
        open_ones = (
            select(INCIDENTS.c.id)
            .join(ATTEMPTS, ATTEMPTS.c.incident_id == INCIDENTS.c.id)
            .where(ATTEMPTS.c.job_id.in_(some), INCIDENTS.c.resolved_at.is_(None))
        )
        found.update(connection.scalars(open_ones))
    return tuple(sorted(found))


def _attach_cause(connection: Connection, cause: str, faults: Sequence[Any]) -> None:
    """Adds faults of one cause; an incident may grow, begin, or unite two."""
    first, last = min(row.ended_at for row in faults), max(row.ended_at for row in faults)
    columns = (INCIDENTS.c.id, INCIDENTS.c.first_seen_at, INCIDENTS.c.last_seen_at)
    query = select(*columns, INCIDENTS.c.resolved_at).where(
        INCIDENTS.c.cause == cause,
        INCIDENTS.c.first_seen_at <= last + GAP,
        INCIDENTS.c.last_seen_at >= first - GAP,
    )
    spans = {row.id: Span(*row) for row in connection.execute(query)}
    members: dict[int, list[int]] = defaultdict(list)
    for fault in faults:
        at = fault.ended_at
        ids = joined(at, list(spans.values()))
        home = ids[0] if ids else _begin(connection, cause, at)
        united = [spans.pop(each) for each in ids] or [Span(home, at, at, None)]
        spans[home] = united[0]._replace(
            first=min(at, *(each.first for each in united)),
            last=max(at, *(each.last for each in united)),
        )
        for other in ids[1:]:
            members[home] += members.pop(other, [])
            moved = update(ATTEMPTS).where(ATTEMPTS.c.incident_id == other)
            connection.execute(moved.values(incident_id=home))
            connection.execute(delete(INCIDENTS).where(INCIDENTS.c.id == other))
        members[home].append(fault.id)
    for home, attempt_ids in members.items():
        for some in portions(attempt_ids):
            joining = update(ATTEMPTS).where(ATTEMPTS.c.id.in_(some))
            connection.execute(joining.values(incident_id=home))
        _summarise(connection, home)


def _begin(connection: Connection, cause: str, at: datetime) -> int:
    made = insert(INCIDENTS).values(
        cause=cause, scope="all", first_seen_at=at, last_seen_at=at,
        faults=1, jobs=1, pull_requests=1, evidence=Evidence(rule=""),
    )  # fmt: skip
    found: int = connection.scalars(made.returning(INCIDENTS.c.id)).one()
    return found


def _summarise(connection: Connection, incident: int) -> None:
    """Updates an incident's counts, times, place and evidence from its faults."""
    of_it = ATTEMPTS.c.incident_id == incident
    counted = select(
        func.count().label("faults"),
        func.count(distinct(ATTEMPTS.c.job_id)).label("jobs"),
        func.count(distinct(REVISIONS.c.pull_request_id)).label("pull_requests"),
        func.min(ATTEMPTS.c.ended_at).label("first_seen_at"),
        func.max(ATTEMPTS.c.ended_at).label("last_seen_at"),
    )
    totals = connection.execute(counted.select_from(ATTEMPTED).where(of_it)).mappings().one()
    pairs = select(ATTEMPTS.c.pool, ATTEMPTS.c.worker).where(of_it).distinct()
    place = place_of((row.pool, row.worker) for row in connection.execute(pairs))
    first = (
        select(ATTEMPTS.c.outcome)
        .select_from(ATTEMPTED)
        .where(of_it, ATTEMPTS.c.ended_at == totals["first_seen_at"])
        .order_by(
            PULL_REQUESTS.c.repository, PULL_REQUESTS.c.target, REVISIONS.c.head,
            REVISIONS.c.opened_at, JOBS.c.name, ATTEMPTS.c.round, ATTEMPTS.c.number,
        )
        .limit(1)
    )  # fmt: skip
    evidence = connection.scalars(first).one().evidence
    summary = {**totals, "evidence": evidence, **dict(place)}
    connection.execute(update(INCIDENTS).where(INCIDENTS.c.id == incident).values(summary))


class Incidents(Connected):
    """The part of the index with incidents."""

    def incidents(
        self, wanted: IncidentFilter = _EVERY_INCIDENT, *, place: ListPlace = _START
    ) -> Page[Incident]:
        """Lists incidents, last seen first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        conditions = equal(INCIDENTS, wanted, "cause", "pool", "worker")
        conditions.append(INCIDENTS.c.faults >= wanted.least_faults)
        if wanted.is_open is not None:
            conditions.append(INCIDENTS.c.resolved_at.is_(None).is_(wanted.is_open))
        if wanted.since is not None:
            conditions.append(INCIDENTS.c.last_seen_at >= wanted.since)
        order = (INCIDENTS.c.last_seen_at, INCIDENTS.c.id)
        with reading(self._engine) as connection:
            return page(connection, select(INCIDENTS).where(*conditions), order, place, _incident)

    def incident(self, number: int) -> Incident | None:
        """Reads one incident; None if it does not exist, or was united with another one.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return read_incident(connection, number)

    def resolve(self, number: int, *, at: datetime, by: str) -> bool:
        """Resolves an open incident; False if it is not open (any more).

        Args:
            number: Of the incident.
            at: When it was found repaired; one with a later fault stays open.
            by: Who or what found that.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        repaired = update(INCIDENTS).where(
            INCIDENTS.c.id == number,
            INCIDENTS.c.resolved_at.is_(None),
            INCIDENTS.c.last_seen_at <= at,
        )
        with writing(self._engine) as connection:
            changed = connection.execute(repaired.values(resolved_at=at, resolved_by=by))
            return changed.rowcount == 1

    def hit_jobs(self, number: int) -> tuple[HitJob, ...]:
        """Lists jobs that an incident hit and that are still errored with its cause.

        Only of the newest testings of open pull requests: superseded ones are not restarted.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        query = (
            select(*KEY_COLUMNS, *JOB_COLUMNS, JOBS.c.restart_budget_used)
            .select_from(HIT_BY_INCIDENTS)
            .where(INCIDENTS.c.id == number, is_still_errored())
            .distinct()
        )
        with reading(self._engine) as connection:
            return tuple(
                HitJob(
                    revision=revision_of(row),
                    job=job_of(row),
                    restart_budget_used=row.restart_budget_used,
                )
                for row in connection.execute(query)
            )

    def undecided_jobs(self, number: int) -> int:
        """Counts undecided jobs of current heads that an incident hit.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        query = select(func.count(distinct(JOBS.c.id))).select_from(ATTEMPTED)
        query = query.where(
            ATTEMPTS.c.incident_id == number,
            JOBS.c.standing.in_(UNDECIDED),
            revision_condition(CURRENT),
        )
        with reading(self._engine) as connection:
            return connection.scalar(query) or 0

    def recovered_since(self, incident: Incident) -> bool:
        """Whether a job that it hit has been decided since its last fault, at the same place.

        A package failure counts: the CI worked. A failure that is in doubt because of the incident
        does not count, until so many jobs fail that way again, anywhere, that this is refuted.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        hit = ATTEMPTS.alias("hit")
        doubted = select(hit.c.signature).where(
            hit.c.incident_id == incident.id, hit.c.signature.is_not(None)
        )
        same_way = and_(ATTEMPTS.c.signature.is_not(None), ATTEMPTS.c.signature.in_(doubted))
        of_hit = select(ATTEMPTS.c.job_id).where(ATTEMPTS.c.incident_id == incident.id)
        since = and_(
            ATTEMPTS.c.job_id.in_(of_hit),
            ATTEMPTS.c.started_at >= incident.last_seen_at,
            ATTEMPTS.c.standing.in_((Standing.PASSED, Standing.FAILED, Standing.SKIPPED)),
        )
        narrowest = "pool" if incident.place.worker is None else "worker"
        there = equal(ATTEMPTS, incident.place, narrowest)
        through = select(ATTEMPTS.c.id).where(since, *there, not_(same_way)).limit(1)
        again = select(func.count(distinct(ATTEMPTS.c.job_id))).where(since, same_way)
        with reading(self._engine) as connection:
            if connection.scalar(through) is not None:
                return True
            return (connection.scalar(again) or 0) >= REFUTED_BY


def read_incident(connection: Connection, number: int) -> Incident | None:
    """Reads one incident; None if it does not exist."""
    row = connection.execute(select(INCIDENTS).where(INCIDENTS.c.id == number)).one_or_none()
    return None if row is None else _incident(row)


def _incident(row: AnyRow) -> Incident:
    place = Place.model_validate(row, from_attributes=True)
    own = {name: getattr(row, name) for name in Incident.model_fields if name != "place"}
    return Incident(place=place, **own)
