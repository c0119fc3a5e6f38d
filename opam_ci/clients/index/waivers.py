"""Failures that do not count, by a decision of somebody: see `core/jobs/waiver.py`."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from opam_ci.clients.index.audit import insert_entry
from opam_ci.clients.index.changing import decide_each
from opam_ci.clients.index.engine import Connected, lock, portions, reading, writing
from opam_ci.clients.index.filters import CURRENT, of_revisions
from opam_ci.clients.index.rows import job_of, revision_of
from opam_ci.clients.index.schema import AUDIT, JOB_COLUMNS, JOBS, KEY_COLUMNS, TESTED, WAIVERS
from opam_ci.clients.index.write import find_revision, locked_revision
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.outcome import Outcome
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.jobs.waiver import (
    ANNOUNCED,
    REMEMBERED,
    WAIVABLE_KINDS,
    WAIVERS_LIMIT,
    Waiver,
    duplicate,
    waived,
)
from opam_ci.core.pages.model import AuditEntry

_LOCK = 0x77616976
"""Id of the lock of those who add waivers: of two equal ones the later one is refused."""

_ROLE = "operator"
"""Role of those who add and remove waivers: by commands, which only operators can run."""

_LISTED = 2 * WAIVERS_LIMIT
"""Waivers of a listing."""

_ENDS_AT = func.coalesce(
    WAIVERS.c.removed_at, WAIVERS.c.expires_at, type_=WAIVERS.c.expires_at.type
)


class Waivers(Connected):
    """The part of the index with waivers."""

    def waivers(self, now: datetime) -> tuple[Waiver, ...]:
        """Lists waivers: those in force, the next to expire first, then those that have ended.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            found = _remembered(connection, now)
        active = [each for each in found if each.ends_at > now]
        return (*active, *reversed([each for each in found if each.ends_at <= now]))

    def add_waiver(self, waiver: Waiver) -> Waiver:
        """Adds a waiver, and an entry of the audit log; failures of before are left.

        Args:
            waiver: The waiver; its id is ignored.

        Returns:
            The waiver with its id.

        Raises:
            UsageError: One in force has the same scope, or there are too many.
            InfrastructureError: The index cannot be written.
        """
        with writing(self._engine) as connection:
            lock(connection, _LOCK)
            now = waiver.created_at
            others = _remembered(connection, now)
            if (problem := duplicate(waiver, others)) is not None:
                raise UsageError(problem)
            if sum(each.ends_at > now for each in others) >= WAIVERS_LIMIT:
                raise UsageError(
                    f"{WAIVERS_LIMIT} waivers are in force, which is the most; remove one first"
                )
            values = waiver.model_dump(exclude={"id"})
            added = connection.execute(insert(WAIVERS).values(values).returning(WAIVERS.c.id))
            waiver = waiver.model_copy(update={"id": added.scalar_one()})
            taken = sum(_taken(connection, waiver).values())
            insert_entry(connection, AUDIT, _entry(waiver, "waive", waiver.login, now, taken))
        return waiver

    def remove_waiver(self, number: int, *, login: str, at: datetime) -> Waiver:
        """Ends a waiver, with an entry of the audit log; jobs that it took are left.

        Args:
            number: Its id.
            login: Who removes it.
            at: When.

        Raises:
            UsageError: There is no such waiver, or it has ended.
            InfrastructureError: The index cannot be written.
        """
        with writing(self._engine) as connection:
            row = connection.execute(select(WAIVERS).where(WAIVERS.c.id == number)).one_or_none()
            if row is None:
                raise UsageError(f"no such waiver: {number}; `opam-ci waivers` lists them")
            waiver = Waiver.model_validate(row, from_attributes=True)
            if waiver.ends_at <= at:
                how = "was removed" if waiver.removed_at is not None else "expired"
                raise UsageError(f"waiver {number} {how} on {waiver.ends_at:%d %B %Y} already")
            connection.execute(update(WAIVERS).where(WAIVERS.c.id == number).values(removed_at=at))
            insert_entry(connection, AUDIT, _entry(waiver, "unwaive", login, at, 0))
        return waiver.model_copy(update={"removed_at": at})

    def failures_taken(self, waiver: Waiver) -> dict[RevisionKey, int]:
        """Counts the failures of current heads of open pull requests in the scope of a waiver.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return dict(_taken(connection, waiver))

    def waive(self, key: RevisionKey, at: datetime) -> bool:
        """Gives failures of a testing the verdict that they have by waivers.

        Args:
            key: The testing.
            at: When.

        Returns:
            Whether that changed jobs.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        with reading(self._engine) as connection:
            waivers = [each for each in _remembered(connection, at) if each.removed_at is None]
            if not waivers:
                return False
            rows = connection.execute(
                select(JOBS).where(
                    JOBS.c.revision_id == find_revision(connection, key),
                    JOBS.c.standing == Standing.FAILED,
                    JOBS.c.kind.in_(sorted(WAIVABLE_KINDS)),
                )
            ).all()
        verdicts = {
            row.id: verdict
            for row in rows
            if (verdict := waived(job_of(row), row.outcome, row.cause_group, waivers, at))
            != row.outcome
        }
        self.decide_failed(key, verdicts, at)
        return bool(verdicts)

    def decide_failed(
        self, key: RevisionKey, verdicts: Mapping[int, Outcome], at: datetime
    ) -> None:
        """Gives failed jobs of a testing other verdicts, and leaves their attempts: they did fail.

        Args:
            key: The testing.
            verdicts: By the id of the job.
            at: When.

        Raises:
            InfrastructureError: The index cannot be written; call again for the rest.
        """
        for some in portions(tuple(verdicts)):
            with writing(self._engine) as connection:
                locked_revision(connection, key, at)
                decide_each(
                    connection,
                    JOBS.c.id,
                    {each: verdicts[each] for each in some},
                    at,
                    JOBS.c.standing == Standing.FAILED,
                )


def announced(connection: Connection, now: datetime) -> tuple[Waiver, ...]:
    """Returns waivers that end soon or ended a short time ago, the nearest to its end first."""
    found = sorted(_remembered(connection, now), key=lambda each: abs(each.ends_at - now))
    return tuple(each for each in found if abs(each.ends_at - now) <= ANNOUNCED)


def _remembered(connection: Connection, now: datetime) -> list[Waiver]:
    """Returns waivers that are in force or ended within `REMEMBERED`, the first to end first."""
    query = select(WAIVERS).where(now - REMEMBERED < _ENDS_AT)
    query = query.order_by(_ENDS_AT.desc(), WAIVERS.c.id.desc()).limit(_LISTED)
    found = connection.execute(query).all()
    return [Waiver.model_validate(row, from_attributes=True) for row in reversed(found)]


def _taken(connection: Connection, waiver: Waiver) -> Counter[RevisionKey]:
    query = (
        select(*KEY_COLUMNS, *JOB_COLUMNS, JOBS.c.failure_reason, JOBS.c.cause_group)
        .select_from(TESTED)
        .where(
            JOBS.c.standing == Standing.FAILED,
            JOBS.c.kind.in_(sorted(WAIVABLE_KINDS)),
            of_revisions(connection, CURRENT),
        )
        .order_by(JOBS.c.id)
    )
    return Counter(
        revision_of(row)
        for row in connection.execute(query)
        if waiver.takes(job_of(row), row.failure_reason, row.cause_group)
    )


def _entry(waiver: Waiver, action: str, login: str, at: datetime, taken: int) -> AuditEntry:
    """Makes an entry of the audit log. A waiver is of no repository: it is for all of the index."""
    detail = f"{waiver.id}: {waiver.scope}; {waiver.because}; until {waiver.expires_at:%d %B %Y}"
    return AuditEntry(
        at=at,
        login=login,
        role=_ROLE,
        action=action,
        repository="",
        target="",
        detail=detail,
        taken=taken,
    )
